/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The run state of a ring as control sees it: a table (ring_states.def) of states and events. Pure functions, any thread.
 */
#pragma once

#include "base/base.h"

enum vhk_ring_state {
        VHK_RING_STATE_STOPPED,         /* the ring's memory is not touched at all */
        VHK_RING_STATE_RUNNING,
        VHK_RING_STATE_STALLED,         /* runs, but waits for a translation */
        VHK_RING_STATE_DRAINING,        /* pop gives nothing, requests in flight finish */
        VHK_RING_STATE_BROKEN,          /* the guest or the peer broke its rules; nothing more is popped or published */
        VHK_N_RING_STATES,
};

enum vhk_ring_event {
#define VHK_RING_EVENT(NAME, ...) VHK_RING_EVENT_##NAME,
#include "ring/ring_states.def"
#undef VHK_RING_EVENT
        VHK_N_RING_EVENTS,
};

/* What control does when an event is legal. */
enum vhk_ring_action {
        VHK_RING_DO_KEEP,               /* remember the value in the session; no ring needs to know */
        VHK_RING_DO_START,              /* home: vhk_queue_start() with all that was remembered */
        VHK_RING_DO_ADOPT,              /* home: the new descriptor, flag or memory: vhk_queue_adopt() */
        VHK_RING_DO_DRAIN,              /* home: vhk_queue_drain(); answer at DRAINED */
        VHK_RING_DO_ABORT,              /* home: the same, nobody will look at the result */
        VHK_RING_DO_BREAK,              /* MEM_GONE: home breaks it, and adopts a configuration without areas; FAULT: likewise, or home did it */
        VHK_RING_DO_ANSWER,             /* the ring has stopped: its base can be told */
};

/* What @event does to a ring in @state: the action, and the state that follows; -EPROTO: it must not happen (an empty cell,
 * or a number that is none). */
int vhk_ring_next_state(enum vhk_ring_state state, enum vhk_ring_event event, enum vhk_ring_state *ret_next);

/* For logs: "RUNNING", "SET_VRING_NUM"; "?" for numbers that are none. */
const char *vhk_ring_state_name(enum vhk_ring_state state);
const char *vhk_ring_event_name(enum vhk_ring_event event);
