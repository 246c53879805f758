/* SPDX-License-Identifier: Apache-2.0 */
/* An auditor for LD_AUDIT: it sees every library and every symbol bound, in a namespace with an allocator of its
 * own. */
#include <link.h>
#include <stdlib.h>

unsigned la_version(unsigned version) {
	free(malloc(100));
	return version;
}

unsigned la_objopen(struct link_map *map, Lmid_t namespace, uintptr_t *cookie) {
	(void)map, (void)namespace, (void)cookie;
	return LA_FLG_BINDTO | LA_FLG_BINDFROM;
}
