/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Translations of I/O virtual addresses (vhost-user, IOTLB_MSG) as a snapshot like that of guest memory: a struct
 * vhk_memmap whose guest addresses are IOVAs. Control makes a new one for each change that a ring may see, and rings adopt it by
 * the mechanism they have; an address that is not in it is not a hole but a miss: the front-end is asked.
 *
 * Each entry lies in one region of the guest memory that the snapshot was made on, to which the snapshot holds a reference.
 * Entries are in order and do not overlap; neighbours that continue each other here, there and in permission are one.
 * Only entries for both reading and writing enter a ring's cache; for others the permission is looked at each time.
 */
#pragma once

#include "mem/mem.h"

#define VHK_IOTLB_MAX 4096u             /* entries; another one drives old ones out, which will be asked for again */

enum { VHK_IOTLB_R = 1, VHK_IOTLB_W = 2, VHK_IOTLB_RW = 3 };

/* Why an update is refused: iotlb.range (a size of 0, or it wraps), iotlb.user-addr (not all of it is guest memory),
 * iotlb.no-memory. */

/* No translations yet, over @guest (takes a reference). */
int vhk_iotlb_new(struct vhk_memmap *guest, struct vhk_memmap **ret_m);

/* Both change *m: in place if nobody else holds a reference to it, else *m becomes another one (and gives up its reference). Unchanged
 * if they fail. */

/* [iova, iova + len) is at @user_addr (a guest address if @is_gpa) of its guest memory from now on, to be accessed as @perm says.
 * What was said of that range before is forgotten. */
int vhk_iotlb_update(struct vhk_memmap **m, uint64_t iova, uint64_t len, uint64_t user_addr, bool is_gpa, unsigned perm,
                     struct vhk_error *ret_e);
/* Forgets [iova, iova + len); everything if len is 0 or UINT64_MAX. 0: requests that were popped before are of another time
 * (vhk_memmap_extends() says no), the front-end may rely on the end of those that touch it
 * (vhk_iotlb_took()); 1: nothing of that range was known since the last invalidation, *m is as it
 * was. -ENOMEM. */
int vhk_iotlb_invalidate(struct vhk_memmap **m, uint64_t iova, uint64_t len);

/* The same translations over another guest memory; those whose region it does not have are forgotten. */
int vhk_iotlb_rebase(const struct vhk_memmap *old, struct vhk_memmap *guest, struct vhk_memmap **ret_m);

/* May [iova, iova + len) be accessed as @perm says? Returns how many bytes of it from the beginning, len if all. */
uint64_t vhk_iotlb_reach(const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm);
/* Is there an entry in [first, last]? */
bool vhk_iotlb_touches(const struct vhk_memmap *m, uint64_t first, uint64_t last);
/* The host address of [iova, iova + len), if it is in one piece and may be accessed like that; NULL. */
void *vhk_iotlb_host(const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm);
/* As iovecs. Number used, -EAGAIN (*ret_miss is the first address without a translation), -EFAULT (wraps), -ENOSPC (more than @max). */
int vhk_iotlb_iov(const struct vhk_memmap *m, uint64_t iova, uint64_t len, unsigned perm, struct iovec *iov, unsigned max,
                  uint64_t *ret_miss);
