/* SPDX-License-Identifier: Apache-2.0 */
/* A plugin that programs open with RTLD_DEEPBIND. Its blocks come from the C library's own functions and from malloc,
 * and it frees those of its host. */
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

/* The C library allocates, the plugin frees. */
EXPORTED int plugin_copies_and_frees(const char *text) {
	char *copy = strdup(text);
	int equal = copy != NULL && strcmp(copy, text) == 0;
	free(copy);
	return equal;
}

EXPORTED void *plugin_allocate(size_t size) { return malloc(size); }
EXPORTED void plugin_free(void *block) { free(block); }
/* The free() that the dynamic linker chose for this plugin. */
EXPORTED void *plugin_address_of_free(void) { return (void *)free; }
