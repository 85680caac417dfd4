# Unity builds: several source files are compiled as one, so that the headers they share are read
# once. The presets use it, except `debug`, in which a changed file compiles alone. A plain CMake
# build compiles each file alone, too: scripts/try-debian does it, and so proves that each file
# includes what it uses.

# cluster_unity(TARGET): joins up to ten sources of the same folder. Does nothing unless CLUSTER_UNITY
# is on.
function(cluster_unity target)
  if(NOT CLUSTER_UNITY)
    return()
  endif()
  set(size 10)
  get_target_property(sources ${target} SOURCES)
  foreach(source IN LISTS sources)
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} OUTPUT_VARIABLE path)
    cmake_path(GET path PARENT_PATH folder)
    string(MD5 folder ${folder})
    list(APPEND folders ${folder})
    list(APPEND in_${folder} ${source})
  endforeach()
  list(REMOVE_DUPLICATES folders)
  set(group 0)
  foreach(folder IN LISTS folders)
    # As many in each group as in the others, so that all cores end at the same time.
    list(LENGTH in_${folder} count)
    math(EXPR groups "(${count} + ${size} - 1) / ${size}")
    set(index 0)
    foreach(source IN LISTS in_${folder})
      math(EXPR member "${group} + ${index} * ${groups} / ${count}")
      set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${member})
      math(EXPR index "${index} + 1")
    endforeach()
    math(EXPR group "${group} + ${groups}")
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()
