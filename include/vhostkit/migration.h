/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Live migration, as a front-end drives it: where back-ends mark what they write (struct vhk_dirty_log of
 * <vhostkit/memory.h>).
 */
#ifndef VHOSTKIT_MIGRATION_H
#define VHOSTKIT_MIGRATION_H

#include <vhostkit/frontend.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * vhk_frontend_set_log() - where marks go from now on, rings running or not
 * @fd: a descriptor that can be mapped shared; stays the caller's. -1: there is no log any more
 *      (@offset and @size do not count)
 * @offset: of the byte for guest address 0, page aligned
 * @size: bytes; enough for all memory that is lent
 *
 * When it returns, a former log is not written to any more. Nothing is marked until one of the two below asks for it. Needs
 * VHK_CAP_LOG; a back-end that does not like the log closes the connection (-EPIPE). Without a log
 * nothing can be marked: -EBUSY while something is (a vhost-user back-end keeps the last one mapped
 * until it gets another, for there is no message to take it away).
 *
 * A back-end that was found again (VHK_FRONTEND_RECONNECTED) receives the log, and marks what it
 * writes as the one before did, the requests too that it finds in the in-flight record. Where the
 * back-end keeps no such record, what the one before had begun to write may be unmarked.
 */
int vhk_frontend_set_log(struct vhk_frontend *f, int fd, uint64_t offset, uint64_t size);
/** vhk_frontend_set_log_fd() - an eventfd that back-ends may signal when they have marked something; stays the caller's */
int vhk_frontend_set_log_fd(struct vhk_frontend *f, int fd);
/** vhk_frontend_log_data() - mark what is written to the buffers of requests, or do not any more */
int vhk_frontend_log_data(struct vhk_frontend *f, int on);
/**
 * vhk_frontend_log_queue() - mark what is written to the used ring of @i, which was started, or do not any more
 * @gpa: the address that is marked: vhk_ring_setup.device, unless the guest knows its ring by another
 */
int vhk_frontend_log_queue(struct vhk_frontend *f, unsigned i, int on, uint64_t gpa);

/**
 * vhk_frontend_postcopy_advise() - postcopy, at the destination: the guest runs before its memory is there
 *
 * Before any memory is lent:
 *
 *   advise: a userfaultfd(2) of the back-end's process; listen;
 *   vhk_frontend_set_memory(): regions whose pages are missing; where the back-end has them is known then;
 *   start the rings. Read the faults of the descriptor and give pages with UFFDIO_COPY, at the back-end's addresses (a page that
 *   is here already: UFFDIO_WAKE); all others in between;
 *   end, when every page has come. Then close the descriptor.
 *
 * While rings wait for pages, calls that wait for rings (stop, memory) do not return: serve the faults on another thread.
 * Needs VHK_CAP_POSTCOPY. The descriptor is the caller's.
 */
int vhk_frontend_postcopy_advise(struct vhk_frontend *f, int *ret_fd);
/** vhk_frontend_postcopy_listen() - memory that is lent from now on has its pages missing. Out of order, or with memory lent before: -EREMOTEIO */
int vhk_frontend_postcopy_listen(struct vhk_frontend *f);
/** vhk_frontend_postcopy_get_address() - where the back-end has the byte at @gpa, a number in its address space; -EFAULT: not lent */
int vhk_frontend_postcopy_get_address(struct vhk_frontend *f, uint64_t gpa, uint64_t *ret_address);
int vhk_frontend_postcopy_end(struct vhk_frontend *f);

/**
 * vhk_frontend_save_state() - what the device keeps beside features, configuration, rings and memory; all rings are stopped
 * @max: most bytes that are taken
 *
 * Needs VHK_CAP_STATE. Return: 0 with *ret_data, to be given to free(3); -EREMOTEIO the back-end failed; -EFBIG more than @max;
 * -ETIMEDOUT.
 */
int vhk_frontend_save_state(struct vhk_frontend *f, size_t max, void **ret_data, size_t *ret_n);
/** vhk_frontend_load_state() - the same bytes for another back-end, before its rings are started; -EREMOTEIO: it does not take them */
int vhk_frontend_load_state(struct vhk_frontend *f, const void *data, size_t n);

#ifdef __cplusplus
}
#endif

#endif
