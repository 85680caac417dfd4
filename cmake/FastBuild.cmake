# Unity builds: several source files are compiled as one, so that the headers they share are read
# once. The presets use it, except `debug`, in which a changed file compiles alone. A plain CMake
# build compiles each file alone, too: scripts/try-debian does it, and so proves that each file
# includes what it uses.
#
# CMake's own unity builds name the files by their absolute paths, so that no clone of the project
# would find in ccache what another one has compiled. These name them from the project's root.

# cluster_unity(TARGET): joins up to ten sources of the same folder. A source with settings of its
# own stays alone. Call it after the target's last source. Does nothing unless CLUSTER_UNITY is on.
function(cluster_unity target)
  if(NOT CLUSTER_UNITY)
    return()
  endif()
  set(size 10)
  set(alone)
  set(folders)
  get_target_property(sources ${target} SOURCES)
  foreach(source IN LISTS sources)
    set(own FALSE)
    foreach(property COMPILE_DEFINITIONS COMPILE_OPTIONS COMPILE_FLAGS INCLUDE_DIRECTORIES GENERATED)
      get_source_file_property(value ${source} ${property})
      if(value)
        set(own TRUE)
      endif()
    endforeach()
    cmake_path(ABSOLUTE_PATH source BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR} NORMALIZE OUTPUT_VARIABLE path)
    if(own OR NOT path MATCHES "\\.cpp$")
      list(APPEND alone ${source})
      continue()
    endif()
    cmake_path(RELATIVE_PATH path BASE_DIRECTORY ${PROJECT_SOURCE_DIR})
    cmake_path(GET path PARENT_PATH folder)
    string(MAKE_C_IDENTIFIER ${folder} folder)
    list(APPEND folders ${folder})
    list(APPEND in_${folder} ${path})
  endforeach()
  list(REMOVE_DUPLICATES folders)
  set(joined)
  foreach(folder IN LISTS folders)
    # As many in each group as in the others, so that all cores end at the same time.
    list(LENGTH in_${folder} count)
    math(EXPR groups "(${count} + ${size} - 1) / ${size}")
    set(index 0)
    foreach(path IN LISTS in_${folder})
      math(EXPR group "${index} * ${groups} / ${count}")
      string(APPEND text_${folder}_${group} "#include \"${path}\"\n")
      math(EXPR index "${index} + 1")
    endforeach()
    math(EXPR last "${groups} - 1")
    foreach(group RANGE ${last})
      set(file ${CMAKE_CURRENT_BINARY_DIR}/unity/${target}/${folder}_${group}.cpp)
      file(CONFIGURE OUTPUT ${file} CONTENT "${text_${folder}_${group}}" @ONLY)
      list(APPEND joined ${file})
    endforeach()
  endforeach()
  set_property(TARGET ${target} PROPERTY SOURCES ${joined} ${alone})
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
endfunction()
