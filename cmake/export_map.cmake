# The linker's version script for the shared libraries.

# Sets <variable> to glob patterns that match every symbol except <names>.
#
# GNU ld and lld accept unversioned symbols next to versioned ones only if no pattern matches them, so
# "local: *" cannot hide the rest. For each prefix of the names, one pattern matches the symbols that leave
# the names after this prefix: "ma[!l]*" hides all that begins with "ma" except "mal...".
function(libgmem_patterns_except variable names)
	set(prefixes "")
	foreach(name IN LISTS names)
		string(LENGTH "${name}" length)
		foreach(end RANGE ${length})
			string(SUBSTRING "${name}" 0 ${end} prefix)
			if(end LESS length)
				string(SUBSTRING "${name}" ${end} 1 next)
				if(NOT "${next_after_${prefix}}" MATCHES "[${next}]")
					string(APPEND next_after_${prefix} "${next}")
				endif()
			endif()
			list(APPEND prefixes "${prefix}.")
		endforeach()
	endforeach()
	list(REMOVE_DUPLICATES prefixes)

	set(patterns "")
	foreach(prefix IN LISTS prefixes)
		string(REGEX REPLACE "\\.$" "" prefix "${prefix}")
		if("${next_after_${prefix}}" STREQUAL "")
			list(APPEND patterns "${prefix}?*")
			continue()
		endif()
		list(APPEND patterns "${prefix}[!${next_after_${prefix}}]*")
		if(prefix AND NOT prefix IN_LIST names)
			list(APPEND patterns "${prefix}")
		endif()
	endforeach()
	if(NOT patterns)
		set(patterns "*")
	endif()
	set(${variable} "${patterns}" PARENT_SCOPE)
endfunction()

# Writes the version script of a library to <file>; <malloc_names> stay exported and unversioned.
function(libgmem_export_map file malloc_names)
	libgmem_patterns_except(patterns "${malloc_names}")
	list(JOIN patterns ";\n\t\t" GMEM_HIDDEN_PATTERNS)
	configure_file("${PROJECT_SOURCE_DIR}/cpp/libgmem.map.in" "${file}" @ONLY)
endfunction()
