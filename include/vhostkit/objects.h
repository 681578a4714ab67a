/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Objects that devices share with each other, each a descriptor (a dma-buf, say) under a UUID: one table for all
 * front-ends of a program that shall see each other's objects.
 */
#ifndef VHOSTKIT_OBJECTS_H
#define VHOSTKIT_OBJECTS_H

#ifdef __cplusplus
extern "C" {
#endif

#define VHK_OBJECTS_PER_DEVICE 256u     /* most objects that one device may add */

struct vhk_objects;

/**
 * vhk_objects_new() - an empty table, to be given to vhk_frontend_open() in the options
 *
 * Its front-ends may belong to different threads. A device's objects go when it removes them or its connection ends; no
 * other device can remove them. A lookup is handed to the owner's front-end, whose vhk_frontend_get_fd() becomes readable,
 * and asked of its back-end by vhk_frontend_dispatch(); the asking device waits, nobody else. Without an answer in one second
 * the object counts as not there.
 *
 * Return: 0 or -ENOMEM.
 */
int vhk_objects_new(struct vhk_objects **ret_o);

/** vhk_objects_free() - all of its front-ends must be closed, else nothing happens and @o comes back; NULL is legal */
struct vhk_objects *vhk_objects_free(struct vhk_objects *o);

#ifdef __cplusplus
}
#endif

#endif
