/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* A ring's configuration, handed from control to a ring's home: immutable, shared by reference counts. Any thread. */
#include "mem/mapping.h"
#include "ring/ring.h"

static const struct { const char *id, *text; } rules[VHK_N_RING_RULES] = {
        [VHK_RING_OK] = { "ring.ok", "no fault" },
#define VHK_RING_RULE(NAME, id, text) [VHK_RING_##NAME] = { id, text },
#include "ring/rules.def"
#undef VHK_RING_RULE
};

const char *vhk_ring_rule_id(enum vhk_ring_rule r) {
        return (unsigned)r < VHK_N_RING_RULES ? rules[r].id : "ring.?";
}

const char *vhk_ring_rule_text(enum vhk_ring_rule r) {
        return (unsigned)r < VHK_N_RING_RULES ? rules[r].text : "?";
}

int vhk_ring_config_new(const struct vhk_ring_config *values, struct vhk_ring_config **ret_c) {
        struct vhk_ring_config *c = malloc(sizeof(*c));

        if (!c)
                return -ENOMEM;
        *c = *values;
        c->refs = 1;
        if (c->mem)
                vhk_memmap_ref(c->mem);
        for (unsigned i = 0; i < VHK_N(c->views); i++)
                vhk_view_ref(c->views[i]);
        vhk_fdref_ref(c->call);
        vhk_fdref_ref(c->err);
        vhk_dirty_ref(c->log);
        vhk_fdref_ref(c->log_fd);
        if (c->inflight_mapping)
                vhk_mapping_ref(c->inflight_mapping);
        *ret_c = c;
        return 0;
}

struct vhk_ring_config *vhk_ring_config_ref(struct vhk_ring_config *c) {
        if (c)
                vhk_refs_take(&c->refs);
        return c;
}

struct vhk_ring_config *vhk_ring_config_unref(struct vhk_ring_config *c) {
        if (!c || !vhk_refs_drop(&c->refs))
                return NULL;
        vhk_memmap_unref(c->mem);
        for (unsigned i = 0; i < VHK_N(c->views); i++)
                vhk_view_unref(c->views[i]);
        vhk_fdref_unref(c->call);
        vhk_fdref_unref(c->err);
        vhk_dirty_unref(c->log);
        vhk_fdref_unref(c->log_fd);
        vhk_mapping_unref(c->inflight_mapping);
        free(c);
        return NULL;
}
