# cmake -DARCHIVE=<out.a> -DCORE=<in.a> -DAR=<ar> -DSTRIP=<strip> -DCONFIG=<build type> -P merge_archive.cmake
# Adds the members of CORE to ARCHIVE. Unpacking would lose members of the same name.
file(CREATE_LINK "${CORE}" "${ARCHIVE}.core.a" SYMBOLIC)
get_filename_component(folder "${ARCHIVE}" DIRECTORY)
get_filename_component(name "${ARCHIVE}" NAME)
# MRI scripts know no quoting, so no path is in it.
file(WRITE "${ARCHIVE}.mri" "open ${name}\naddlib ${name}.core.a\nsave\nend\n")
execute_process(COMMAND "${AR}" -M INPUT_FILE "${ARCHIVE}.mri" WORKING_DIRECTORY "${folder}"
	COMMAND_ERROR_IS_FATAL ANY)
file(REMOVE "${ARCHIVE}.mri" "${ARCHIVE}.core.a")
# jemalloc and std come with debug information that is ten times their code.
if(CONFIG MATCHES "^(Release|MinSizeRel)?$")
	execute_process(COMMAND "${STRIP}" --strip-debug "${ARCHIVE}" COMMAND_ERROR_IS_FATAL ANY)
endif()
