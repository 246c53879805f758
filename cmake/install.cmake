# Installed files and their places; tests/package/installed.txt is the reviewed list.
include(CMakePackageConfigHelpers)

set(_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/libgmem")

install(TARGETS gmem gmem_api gmem_static EXPORT libgmem-targets
	LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT runtime NAMELINK_COMPONENT runtime
	ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development)
# Unlike -lgmem, -lgmem_static cannot mean the shared library.
file(CREATE_LINK libgmem.a "${CMAKE_CURRENT_BINARY_DIR}/libgmem_static.a" SYMBOLIC)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/libgmem_static.a" DESTINATION "${CMAKE_INSTALL_LIBDIR}"
	COMPONENT development)
install(DIRECTORY include/ "${GMEM_GENERATED_INCLUDE}/" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
	COMPONENT development FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")

install(DIRECTORY docs/man/ DESTINATION "${CMAKE_INSTALL_MANDIR}" COMPONENT development)

install(EXPORT libgmem-targets NAMESPACE libgmem:: DESTINATION "${_package_dir}" COMPONENT development)
configure_package_config_file(cmake/libgmem-config.cmake.in libgmem-config.cmake
	INSTALL_DESTINATION "${_package_dir}" NO_SET_AND_CHECK_MACRO NO_CHECK_REQUIRED_COMPONENTS_MACRO)
write_basic_package_version_file(libgmem-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/libgmem-config.cmake"
	"${CMAKE_CURRENT_BINARY_DIR}/libgmem-config-version.cmake"
	DESTINATION "${_package_dir}" COMPONENT development)

# pkg-config finds the prefix from where the file lies, so a moved prefix works there too.
file(RELATIVE_PATH _prefix "/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/")
foreach(_flavour IN ITEMS libgmem libgmem-api libgmem-static)
	set(GMEM_PC_NAME ${_flavour})
	set(GMEM_PC_PREFIX "\${pcfiledir}/${_prefix}")
	if(_flavour STREQUAL "libgmem")
		set(GMEM_PC_SUMMARY "Memory shared by a CPU and its accelerators; its malloc is the process's")
		set(GMEM_PC_LIBS "-lgmem")
	elseif(_flavour STREQUAL "libgmem-api")
		set(GMEM_PC_SUMMARY "Memory shared by a CPU and its accelerators, without the names of malloc")
		set(GMEM_PC_LIBS "-lgmem_api")
	else()
		set(GMEM_PC_SUMMARY "Memory shared by a CPU and its accelerators, as an archive")
		set(GMEM_PC_LIBS "-Wl,--undefined=malloc -Wl,--undefined=dlopen -lgmem_static -lstdc++ -pthread -ldl -lm")
	endif()
	configure_file(cmake/libgmem.pc.in ${_flavour}.pc @ONLY)
	install(FILES "${CMAKE_CURRENT_BINARY_DIR}/${_flavour}.pc"
		DESTINATION "${CMAKE_INSTALL_LIBDIR}/pkgconfig" COMPONENT development)
endforeach()
