/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* Every cell of the ring's state table against an expectation typed on its own, not derived from the table. */
#include "base/test.h"

#include <stdio.h>

#include "ring/state.h"

/* One line per event, in the enum's order; one pair of letters per state S R W D B (W: STALLED): next state and action
 * (k keep, s start, a adopt, d drain, x abort, b break, r reply); "--" is an empty cell. */
static const struct { const char *name, *cells; } expected[] = {
        { "SET_VRING_NUM",                   "Sk -- -- -- --" },
        { "SET_VRING_ADDR",                  "Sk -- -- -- --" },
        { "SET_VRING_ADDR, same addresses",  "Sk Ra Wa Da Bk" },
        { "SET_VRING_BASE",                  "Sk -- -- -- --" },
        { "SET_VRING_KICK",                  "Rs Ra Wa -- Bk" },
        { "SET_VRING_CALL",                  "Sk Ra Wa Da Bk" },
        { "SET_VRING_ERR",                   "Sk Ra Wa Da Bk" },
        { "SET_VRING_ENABLE",                "Sk Ra Wa Da Bk" },
        { "GET_VRING_BASE",                  "Sr Dd Dd Dd Dd" },
        { "reset or disconnect",             "Sk Dx Dx Dx Dx" },
        { "memory change",                   "Sk Ra Ra Da Ba" },
        { "memory of the ring taken away",   "Sk Bb Bb Db Ba" },
        { "translations changed",            "Sk Ra Ra Da Ba" },
        { "translation missing",             "-- Wk Wk Dk Bk" },
        { "guest fault",                     "-- Bb Bb Db Bk" },
        { "drained",                         "-- -- -- Sr --" },
        { "start failed",                    "-- Sk Sk Dk Sk" },
};

static void cell(enum vhk_ring_state s, enum vhk_ring_event e, char text[3]) {
        static const char states[] = "SRWDB", actions[] = "ksadxbr";
        enum vhk_ring_state next = VHK_N_RING_STATES;
        int r = vhk_ring_next_state(s, e, &next);

        if (r < 0) {
                CHECK_EQ(r, -EPROTO);
                CHECK_EQ(next, VHK_N_RING_STATES);      /* untouched */
                memcpy(text, "--", 3);
        } else {
                CHECK(r < 7 && (unsigned)next < VHK_N_RING_STATES);
                text[0] = states[next];
                text[1] = actions[r];
                text[2] = 0;
        }
}

TEST(every_cell) {
        CHECK_EQ(VHK_N(expected), VHK_N_RING_EVENTS);
        for (unsigned e = 0; e < VHK_N_RING_EVENTS; e++) {
                CHECK_STR(vhk_ring_event_name(e), expected[e].name);
                for (unsigned s = 0; s < VHK_N_RING_STATES; s++) {
                        char got[3];
                        cell(s, e, got);
                        CHECK_MSG(!memcmp(got, expected[e].cells + 3 * s, 2), "%s in %s: %s, expected %.2s",
                                  expected[e].name, vhk_ring_state_name(s), got, expected[e].cells + 3 * s);
                }
        }
}

TEST(broken_is_left_by_stop_alone) {
        for (unsigned e = 0; e < VHK_N_RING_EVENTS; e++) {
                enum vhk_ring_state next = VHK_RING_STATE_BROKEN;
                vhk_ring_next_state(VHK_RING_STATE_BROKEN, e, &next);
                CHECK_EQ(next != VHK_RING_STATE_BROKEN, e == VHK_RING_EVENT_GET_BASE || e == VHK_RING_EVENT_RESET ||
                         e == VHK_RING_EVENT_NOT_STARTED);
        }
}

TEST(numbers_that_are_none) {
        enum vhk_ring_state next;

        CHECK_EQ(vhk_ring_next_state(VHK_N_RING_STATES, VHK_RING_EVENT_KICK, &next), -EPROTO);
        CHECK_EQ(vhk_ring_next_state((enum vhk_ring_state)-1, VHK_RING_EVENT_KICK, &next), -EPROTO);
        CHECK_EQ(vhk_ring_next_state(VHK_RING_STATE_STOPPED, VHK_N_RING_EVENTS, &next), -EPROTO);
        CHECK_STR(vhk_ring_state_name(VHK_N_RING_STATES), "?");
        CHECK_STR(vhk_ring_event_name(VHK_N_RING_EVENTS), "?");
}
