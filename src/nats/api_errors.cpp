#include "nats/api_errors.h"

namespace cluster::nats {

Error error_from_api(const std::string& what, int code, int err_code,
                     const std::string& description) {
  const std::string text =
      what + ": JetStream says: " + description + " (" + std::to_string(err_code) + ")";
  switch (err_code) {
    case 10070:  // wrong last message id, with the id in the text
    case 10071:  // wrong last sequence, with the sequence in the text
    case 10164:  // the same without
      return Error(Errc::wrong_revision, text);
    case 10014:  // no such consumer
    case 10037:  // no such message
    case 10059:  // no such stream
      return Error(Errc::not_found, text);
    case 10054:  // over the stream's own limit
      return Error(Errc::invalid_argument, text + "; raise max_msg_size of the stream");
    case 10039:
      return Error(Errc::unavailable,
                   text + "; enable JetStream for the account of this NATS user");
    case 10076:
      return Error(Errc::unavailable,
                   text + "; start nats-server with -js, or set `jetstream` in its configuration");
    case 10005:  // no suitable peers
      return Error(Errc::unavailable,
                   text +
                       ": too few NATS servers of the cluster are up, or one that is up was left "
                       "out at the cluster's first start; then restart that one");
    case 10008:  // no leader of the JetStream cluster
    case 10009:
    case 10118:  // the stream is offline
    case 10158:  // a message with this id is being stored, or was dropped while it was
    case 10167:  // too many requests
      return Error(Errc::unavailable, text);
    default: break;
  }
  if (code == 503) return Error(Errc::unavailable, text);
  if (code == 404) return Error(Errc::not_found, text);
  if (code == 403) return Error(Errc::permission_denied, text);
  return Error(Errc::invalid_argument, text);
}

}  // namespace cluster::nats
