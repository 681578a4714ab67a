/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * The protocol between control and the workers (docs/threads.md, "Orders and reports"): one control thread, two queues on
 * one worker. Orders travel in slots, reports in words that the worker stores and control loads; each direction has one
 * post for each queue. The front-end sends any message at any time, requests complete at any time or late, translations
 * are missing, answered or refused, the time limit passes, the front-end disconnects.
 *
 * Every run is finite: messages, requests, misses and time limits have budgets. So "eventually" is checked at the end
 * state: when nothing can happen any more, nothing may be pending (process monitor).
 *
 * Built with one of these, the model has a defect that the library once had, and spin must find an error:
 *   -DDEFECT_A1  an UPDATE replaces a STOP that the worker has not taken yet
 *   -DDEFECT_A2  an UPDATE that does not change memory reports "quiesced" for one before it
 *   -DDEFECT_A3  the report of a STOP that came after the time limit is not consumed, and an UPDATE starts a stopped queue
 *   -DDEFECT_A5  a drain does not wait for requests recovered from the in-flight record
 *   -DDEFECT_READ_ORDER  the worker looks for a START before it looks for an UPDATE
 *
 * tests/model/check runs all of them.
 */
#define N_QUEUES 2
#ifndef QUEUES
#define QUEUES 2                /* that the front-end uses */
#endif
#define N_GENERATIONS 3         /* memory snapshots 0, 1, 2 */

#ifndef MESSAGES
#define MESSAGES 4              /* of the front-end */
#endif
#ifndef REQUESTS
#define REQUESTS 2              /* that each queue takes from its driver */
#endif

/* ---- shared: orders; 0 is an empty slot ---- */
byte start_seq[N_QUEUES], start_base[N_QUEUES], start_generation[N_QUEUES];
byte update_seq[N_QUEUES], update_generation[N_QUEUES];
byte stop_seq[N_QUEUES];
bool break_ordered[N_QUEUES];
bool to_worker[N_QUEUES], to_control[N_QUEUES];         /* posts */

/* ---- shared: reports ---- */
byte applied[N_QUEUES], quiesced[N_QUEUES], stopped[N_QUEUES], stopped_base[N_QUEUES];
bool missed[N_QUEUES];

/* ---- worker ---- */
mtype = { STOPPED, RUNNING, DRAINING };
mtype phase[N_QUEUES] = STOPPED;
bool broken[N_QUEUES], stalled[N_QUEUES];
byte generation[N_QUEUES];
byte in_flight[N_QUEUES * N_GENERATIONS];
byte next[N_QUEUES];            /* next available index, recovered requests included */
byte recovered[N_QUEUES];       /* of the in-flight record, not popped again yet; they lie before next */
byte draining_seq[N_QUEUES];
byte available[N_QUEUES];

/* ---- control ---- */
mtype = { C_STOPPED, C_RUNNING, C_STOPPING };
mtype ring[N_QUEUES] = C_STOPPED;
mtype = { NONE, START, UPDATE, MEMORY, STOP, RESET };
mtype pending = NONE;           /* the reply that is due waits for this */
byte wait_seq[N_QUEUES];        /* 0: not for this queue */
byte seq[N_QUEUES], stop_sent[N_QUEUES];
byte base[N_QUEUES];            /* of the session */
byte memory;                    /* newest snapshot */
bool closing, closed;
byte messages = MESSAGES, misses = 1, limits = 1;

#define IN_FLIGHT(q) (in_flight[(q) * N_GENERATIONS] + in_flight[(q) * N_GENERATIONS + 1] + in_flight[(q) * N_GENERATIONS + 2])
#define IN_FLIGHT_BEFORE(q, g) (((g) > 0 -> in_flight[(q) * N_GENERATIONS] : 0) + ((g) > 1 -> in_flight[(q) * N_GENERATIONS + 1] : 0))
#define IS_DRAINED(q) (IN_FLIGHT(q) == 0 && (recovered[q] == 0 || broken[q]))

/* ---------------------------------------------------------------- worker */

inline queue_start(q, b, g) {
        assert(phase[q] == STOPPED);
        assert(b == next[q]);           /* nothing is executed twice, nothing is left out */
        phase[q] = RUNNING;
        generation[q] = g;
        broken[q] = false;
        stalled[q] = false
}

inline take_start(q) {
        w_start = start_seq[q]; w_start_base = start_base[q]; w_start_generation = start_generation[q];
        start_seq[q] = 0; start_base[q] = 0; start_generation[q] = 0
}

inline take_others(q) {
        w_stop = stop_seq[q]; stop_seq[q] = 0;
        w_update = update_seq[q]; w_update_generation = update_generation[q];
        update_seq[q] = 0; update_generation[q] = 0;
        w_break = break_ordered[q]; break_ordered[q] = false
}

#ifdef DEFECT_READ_ORDER
#define take_first(q) take_start(q)
#define take_second(q) take_others(q)
#else
#define take_first(q) take_others(q)
#define take_second(q) take_start(q)
#endif

/* Control may write between the two looks at the slots. */
inline worker_step(q) {
        d_step { to_worker[q] = false; take_first(q) };
        d_step { take_second(q) };
        d_step {
                w_applied = applied[q];
                w_quiesced = quiesced[q];
                if
                :: w_start -> queue_start(q, w_start_base, w_start_generation); w_applied = w_start
                :: else
                fi;
                if
                :: w_break && phase[q] != STOPPED -> broken[q] = true
                :: else
                fi;
                if
                :: w_update && w_update > w_applied ->
                        w_applied = w_update;
                        if
#ifdef DEFECT_A3
                        :: phase[q] == STOPPED -> queue_start(q, base[q], w_update_generation)
#else
                        :: phase[q] == STOPPED          /* dropped */
#endif
                        :: else ->
#ifdef DEFECT_A2
                                if
                                :: generation[q] == w_update_generation -> w_quiesced = w_update
                                :: else
                                fi;
#endif
                                generation[q] = w_update_generation;
                                stalled[q] = false
                        fi
                :: else
                fi;
                if
                :: w_stop ->
                        draining_seq[q] = w_stop;
                        if
                        :: w_stop > w_applied -> w_applied = w_stop
                        :: else
                        fi;
                        if
                        :: phase[q] == RUNNING -> phase[q] = DRAINING
                        :: else
                        fi
                :: else
                fi;
#ifdef DEFECT_A5
                if
                :: phase[q] == DRAINING && IN_FLIGHT(q) == 0 ->
#else
                if
                :: phase[q] == DRAINING && IS_DRAINED(q) ->
#endif
                        phase[q] = STOPPED
                :: else
                fi;
                if
                :: IN_FLIGHT_BEFORE(q, generation[q]) == 0 || phase[q] == STOPPED -> w_quiesced = w_applied
                :: else
                fi;
                w_stopped = stopped[q];
                if
                :: phase[q] == STOPPED && draining_seq[q] -> w_stopped = draining_seq[q]
                :: else
                fi;
                w_news = w_applied != applied[q] || w_quiesced != quiesced[q] || w_stopped != stopped[q]
        };
        /* control may read between the two stores; what is left in the locals is forgotten */
        d_step { quiesced[q] = w_quiesced; stopped_base[q] = next[q]; stopped[q] = w_stopped; w_quiesced = 0; w_stopped = 0 };
        d_step {
                applied[q] = w_applied;
                if
                :: w_news -> to_control[q] = true
                :: else
                fi;
                w_news = false; w_applied = 0; w_start = 0; w_start_base = 0; w_start_generation = 0;
                w_update = 0; w_update_generation = 0; w_stop = 0; w_break = false
        }
}

inline worker_pop(q) {
        d_step {
                if
                :: recovered[q] -> recovered[q]--
                :: else -> available[q]--; next[q]++
                fi;
                in_flight[q * N_GENERATIONS + generation[q]]++
        }
}

inline worker_complete(q, g) {
        d_step {
                in_flight[q * N_GENERATIONS + g]--;
                if      /* the queue posts to its own worker when something may have become true by it */
                :: phase[q] == DRAINING || IN_FLIGHT_BEFORE(q, generation[q]) == 0 -> to_worker[q] = true
                :: else
                fi
        }
}

#define MAY_POP(q) (!broken[q] && !stalled[q] && ((phase[q] == RUNNING && recovered[q] + available[q] > 0) || (phase[q] == DRAINING && recovered[q] > 0)))

proctype worker() {
        byte w_start, w_start_base, w_start_generation, w_update, w_update_generation, w_stop, w_applied, w_quiesced, w_stopped;
        bool w_break, w_news;
end:
        do
        :: to_worker[0] -> worker_step(0)
        :: to_worker[1] -> worker_step(1)
        :: MAY_POP(0) -> worker_pop(0)
        :: MAY_POP(1) -> worker_pop(1)
        :: d_step { MAY_POP(0) && misses -> misses--; stalled[0] = true; missed[0] = true; to_control[0] = true }
        :: in_flight[0] -> worker_complete(0, 0)
        :: in_flight[1] -> worker_complete(0, 1)
        :: in_flight[2] -> worker_complete(0, 2)
        :: in_flight[3] -> worker_complete(1, 0)
        :: in_flight[4] -> worker_complete(1, 1)
        :: in_flight[5] -> worker_complete(1, 2)
        od
}

/* ---------------------------------------------------------------- control */

inline order_start(q) {
        seq[q]++;
        d_step { start_base[q] = base[q]; start_generation[q] = memory; start_seq[q] = seq[q]; to_worker[q] = true }
}

inline order_update(q) {
        seq[q]++;
#ifdef DEFECT_A1
        stop_seq[q] = 0;
#endif
        d_step { update_generation[q] = memory; update_seq[q] = seq[q]; to_worker[q] = true }
}

inline order_stop(q) {
        seq[q]++;
        stop_sent[q] = seq[q];
        ring[q] = C_STOPPING;
        d_step { stop_seq[q] = seq[q]; to_worker[q] = true }
}

inline order_break(q) {
        break_ordered[q] = true;
        to_worker[q] = true
}

/* A change of memory went through: of no queue may a request of an older snapshot be in flight. */
#define NONE_OLDER (IN_FLIGHT_BEFORE(0, memory) == 0 && IN_FLIGHT_BEFORE(1, memory) == 0)

#define WAITS(q, report) (wait_seq[q] && report[q] < wait_seq[q])

inline reply() {
        pending = NONE;
        wait_seq[0] = 0;
        wait_seq[1] = 0
}

/* Looks whether what the reply waits for has come true. */
inline check_pending() {
        if
        :: (pending == START || pending == UPDATE) && !WAITS(0, applied) && !WAITS(1, applied) -> reply()
        :: pending == MEMORY && !WAITS(0, quiesced) && !WAITS(1, quiesced) -> assert(NONE_OLDER); reply()
        :: (pending == STOP || pending == RESET) && !WAITS(0, stopped) && !WAITS(1, stopped) -> reply()
        :: else
        fi
}

/* The report of a STOP, whenever it comes. */
inline consume_stop(q) {
        if
#ifdef DEFECT_A3
        :: ring[q] == C_STOPPING && stopped[q] == stop_sent[q] && (wait_seq[q] || closing) ->
#else
        :: ring[q] == C_STOPPING && stopped[q] == stop_sent[q] ->
#endif
                assert(IN_FLIGHT(q) == 0 && phase[q] == STOPPED);
                assert(broken[q] || recovered[q] == 0);
                ring[q] = C_STOPPED;
                stop_sent[q] = 0;
                base[q] = stopped_base[q]
        :: else
        fi
}

inline take_miss(q) {
        if
        :: missed[q] ->
                missed[q] = false;
                if
                :: ring[q] != C_STOPPED -> order_update(q)      /* the translation has come */
                :: ring[q] != C_STOPPED -> order_break(q)       /* it was refused, or did not come in time */
                :: else
                fi
        :: else
        fi
}

inline on_report(q) {
        to_control[q] = false;
        take_miss(q);
        d_step { consume_stop(q); check_pending() }
}

inline on_kick(q) {
        if
        :: ring[q] == C_STOPPED -> order_start(q); ring[q] = C_RUNNING; d_step { wait_seq[q] = seq[q]; pending = START }
        :: ring[q] == C_STOPPED -> order_start(q); ring[q] = C_RUNNING          /* without NEED_REPLY */
        :: ring[q] == C_RUNNING -> order_update(q)
        :: else                         /* refused: its stop is pending */
        fi
}

inline on_call(q) {
        if
#ifdef DEFECT_A3
        :: ring[q] != C_STOPPED -> order_update(q)
#else
        :: ring[q] == C_RUNNING -> order_update(q); d_step { wait_seq[q] = seq[q]; pending = UPDATE }
        :: ring[q] == C_RUNNING -> order_update(q)                              /* without NEED_REPLY */
        :: ring[q] == C_STOPPING -> order_update(q)
#endif
        :: else
        fi
}

inline give_memory() {
        if
        :: ring[0] != C_STOPPED -> order_update(0); wait_seq[0] = seq[0]; pending = MEMORY
        :: else
        fi;
        if
        :: ring[1] != C_STOPPED -> order_update(1); wait_seq[1] = seq[1]; pending = MEMORY
        :: else
        fi
}

inline on_memory() {
        memory++;
        give_memory();
        check_pending()
}

inline on_get_base(q) {
        if
        :: ring[q] == C_RUNNING -> order_stop(q); wait_seq[q] = seq[q]; pending = STOP
        :: else                         /* answered at once, or refused: its stop is pending */
        fi
}

inline stop_all() {
        if
        :: ring[0] == C_RUNNING -> order_stop(0)
        :: else
        fi;
        if
        :: ring[1] == C_RUNNING -> order_stop(1)
        :: else
        fi
}

inline on_reset() {
        stop_all();
        if
        :: ring[0] == C_STOPPING -> wait_seq[0] = stop_sent[0]; pending = RESET
        :: else
        fi;
        if
        :: ring[1] == C_STOPPING -> wait_seq[1] = stop_sent[1]; pending = RESET
        :: else
        fi;
        check_pending()
}

/* The reply is an error; what it waited for goes on. */
inline on_limit() {
        limits--;
        reply()
}

inline on_disconnect() {
        closing = true;
        messages = 0;
        reply();
        stop_all()
}

#define MAY_READ (messages > 0 && pending == NONE && !closing)

proctype control() {
end:
        do
        :: to_control[0] -> on_report(0)
        :: to_control[1] -> on_report(1)
        :: MAY_READ -> messages--; on_kick(0)
        :: MAY_READ && QUEUES == 2 -> messages--; on_kick(1)
        :: MAY_READ -> messages--; on_call(0)
        :: MAY_READ && memory + 1 < N_GENERATIONS -> messages--; on_memory()
        :: MAY_READ -> messages--; on_get_base(0)
        :: MAY_READ && QUEUES == 2 -> messages--; on_get_base(1)
        :: MAY_READ -> messages--; on_reset()
        :: pending != NONE && limits > 0 -> on_limit()
        :: !closing -> on_disconnect()
        :: d_step { closing && !closed && ring[0] == C_STOPPED && ring[1] == C_STOPPED ->
                        closed = true;
                        assert(IN_FLIGHT(0) == 0 && IN_FLIGHT(1) == 0 && phase[0] == STOPPED && phase[1] == STOPPED) }
        od
}

/* When nothing can happen any more. */
proctype monitor() {
        timeout;
        assert(pending == NONE);
        assert(closed);                 /* every connection ends */
        assert(start_seq[0] + start_seq[1] + update_seq[0] + update_seq[1] + stop_seq[0] + stop_seq[1] == 0)
}

init {
        atomic {
                available[0] = REQUESTS;
                available[1] = 1;
                if      /* does queue 0 start with requests of a predecessor? */
                :: recovered[0] = 1; next[0] = 1; base[0] = 1
                :: skip
                fi;
                run worker();
                run control();
                run monitor()
        }
}
