# Precompiled headers, for the sanitizers' builds: they compile everything a second and a third time.
# Off otherwise, so that the usual build proves that each file includes what it uses.

# cluster_precompile(TARGET HEADER...): does nothing unless CLUSTER_PCH is on.
function(cluster_precompile target)
  if(CLUSTER_PCH)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()
