/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The table of ring_states.def, looked up. */
#include "ring/state.h"

struct cell { uint8_t legal, next, action; };

#define TO(STATE, ACTION) { 1, VHK_RING_STATE_##STATE, VHK_RING_DO_##ACTION }
#define NO { 0, 0, 0 }

static const struct cell cells[VHK_N_RING_EVENTS][VHK_N_RING_STATES] = {
#define VHK_RING_EVENT(NAME, text, ...) [VHK_RING_EVENT_##NAME] = { __VA_ARGS__ },
#include "ring/ring_states.def"
#undef VHK_RING_EVENT
};

static const char *const event_names[VHK_N_RING_EVENTS] = {
#define VHK_RING_EVENT(NAME, text, ...) [VHK_RING_EVENT_##NAME] = text,
#include "ring/ring_states.def"
#undef VHK_RING_EVENT
};

static const char *const state_names[VHK_N_RING_STATES] = { "STOPPED", "RUNNING", "STALLED", "DRAINING", "BROKEN" };

int vhk_ring_next_state(enum vhk_ring_state state, enum vhk_ring_event event, enum vhk_ring_state *ret_next) {
        if ((unsigned)state >= VHK_N_RING_STATES || (unsigned)event >= VHK_N_RING_EVENTS)
                return -EPROTO;

        struct cell c = cells[event][state];
        if (!c.legal)
                return -EPROTO;
        *ret_next = (enum vhk_ring_state)c.next;
        return c.action;
}

const char *vhk_ring_state_name(enum vhk_ring_state state) {
        return (unsigned)state < VHK_N_RING_STATES ? state_names[state] : "?";
}

const char *vhk_ring_event_name(enum vhk_ring_event event) {
        return (unsigned)event < VHK_N_RING_EVENTS ? event_names[event] : "?";
}
