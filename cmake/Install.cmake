# What is installed, and how others find it: a CMake package, a pkg-config file. Included last, when
# all targets are known.
include(CMakePackageConfigHelpers)

file(READ ${PROJECT_SOURCE_DIR}/include/cluster/version.h version_header)
if(NOT version_header MATCHES "CLUSTER_VERSION \"${PROJECT_VERSION}\"")
  message(FATAL_ERROR "include/cluster/version.h does not say ${PROJECT_VERSION}, as CMakeLists.txt does")
endif()

# A static library needs its own libraries again where it is linked. Both files say which, from what
# the target itself links, so that they can't go stale.
set(package_dependencies "find_dependency(Threads)\nfind_dependency(PkgConfig)")
set(pc_requires)
get_target_property(linked cluster LINK_LIBRARIES)
foreach(library IN LISTS linked)
  if(library MATCHES "^PkgConfig::(.*)")
    set(module ${CMAKE_MATCH_1})
    string(APPEND package_dependencies "\nif(NOT TARGET PkgConfig::${module})"
           "\n  pkg_check_modules(${module} REQUIRED IMPORTED_TARGET ${${module}_MODULE_NAME})\nendif()")
    list(APPEND pc_requires ${${module}_MODULE_NAME})
  elseif(library MATCHES "^nlohmann_json::")
    string(APPEND package_dependencies "\nfind_dependency(nlohmann_json)")
  elseif(library MATCHES "^spdlog::")
    string(APPEND package_dependencies "\nfind_dependency(spdlog)")
    list(APPEND pc_requires spdlog)
  elseif(library MATCHES "^yaml-cpp")
    string(APPEND package_dependencies "\nfind_dependency(yaml-cpp)")
    list(APPEND pc_requires yaml-cpp)
  elseif(NOT library MATCHES "^Threads::|^\\$<BUILD_INTERFACE:")
    message(FATAL_ERROR "cmake/Install.cmake does not know how dependents of the library find ${library}")
  endif()
endforeach()
list(REMOVE_DUPLICATES pc_requires)
list(JOIN pc_requires ", " pc_requires)
if(BUILD_SHARED_LIBS)
  set(pc_requires "Requires.private: ${pc_requires}")
else()
  # Named plainly, so that a build that does not ask for --static links too.
  set(pc_requires "Requires: ${pc_requires}")
endif()

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/cpp-cluster-config.cmake.in
  ${PROJECT_BINARY_DIR}/package/cpp-cluster-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cpp-cluster)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/cpp-cluster-config-version.cmake
  COMPATIBILITY SameMinorVersion)
# The prefix is known when it is installed, not now: the file finds it from its own place.
file(RELATIVE_PATH pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" pc_prefix "${pc_prefix}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/cpp-cluster.pc.in ${PROJECT_BINARY_DIR}/package/cpp-cluster.pc @ONLY)

install(TARGETS cluster EXPORT cpp-cluster)
install(EXPORT cpp-cluster NAMESPACE cluster:: FILE cpp-cluster-targets.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cpp-cluster)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/cluster DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_BINARY_DIR}/package/cpp-cluster-config.cmake
              ${PROJECT_BINARY_DIR}/package/cpp-cluster-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cpp-cluster)
install(FILES ${PROJECT_BINARY_DIR}/package/cpp-cluster.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(TARGET cpp-cluster)
  install(TARGETS cpp-cluster)
endif()
if(TARGET cpp-cluster-guardian)
  install(TARGETS cpp-cluster-guardian RUNTIME DESTINATION ${CMAKE_INSTALL_LIBEXECDIR}/cpp-cluster)
endif()
if(TARGET cpp_cluster_sqlite)
  install(TARGETS cpp_cluster_sqlite LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/cpp-cluster)
endif()
if(BUILD_SHARED_LIBS)
  foreach(program cpp-cluster cpp-cluster-guardian)
    if(TARGET ${program})
      set_target_properties(${program} PROPERTIES
        INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR};$ORIGIN/../../${CMAKE_INSTALL_LIBDIR}")
    endif()
  endforeach()
endif()

# What make demo needs, and no more.
add_custom_target(demo_programs)
foreach(program cpp-cluster cpp-cluster-guardian cpp_cluster_sqlite notes demo)
  if(TARGET ${program})
    add_dependencies(demo_programs ${program})
  endif()
endforeach()
