/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Structs of the public headers that begin with "size_t size", their size in the header that the
 * caller was compiled with. New members are added at the end, and 0 in them means what was before,
 * so callers and library may be of different versions. Every struct with a size goes through here,
 * in both directions.
 */
#pragma once

#include "base/base.h"

#define VHK_STRUCT_MAX 65536u           /* a larger size was not set */

/* Bytes of @type up to the end of @member: what a caller has to have. */
#define VHK_STRUCT_UP_TO(type, member) (offsetof(type, member) + sizeof(((type *)NULL)->member))

/*
 * Copy the caller's *theirs to *own of @own_size bytes, whose size member becomes @own_size.
 * Members that an older caller does not have stay as they are in *own. 0; -EINVAL: size is not set,
 * or less than @least; -E2BIG: a newer caller uses a member that is not known here.
 */
static inline int vhk_struct_take(void *own, size_t own_size, const void *theirs, size_t least) {
        const uint8_t *bytes = theirs;
        size_t size;

        memcpy(&size, theirs, sizeof(size));
        if (size < least || size < sizeof(size) || size > VHK_STRUCT_MAX)
                return -EINVAL;
        for (size_t i = own_size; i < size; i++)
                if (bytes[i])
                        return -E2BIG;
        memcpy((uint8_t *)own + sizeof(size), bytes + sizeof(size), VHK_MIN(size, own_size) - sizeof(size));
        memcpy(own, &own_size, sizeof(own_size));
        return 0;
}

/*
 * Fill the caller's *theirs, whose size member is set and stays, from *own: nothing beyond its end,
 * and zeroes in members that are not known here. 0; -EINVAL: size is not set
 */
static inline int vhk_struct_give(void *theirs, const void *own, size_t own_size) {
        uint8_t *bytes = theirs;
        size_t size;

        memcpy(&size, theirs, sizeof(size));
        if (size < sizeof(size) || size > VHK_STRUCT_MAX)
                return -EINVAL;
        memcpy(bytes + sizeof(size), (const uint8_t *)own + sizeof(size), VHK_MIN(size, own_size) - sizeof(size));
        if (size > own_size)
                memset(bytes + own_size, 0, size - own_size);
        return 0;
}

/* @own: a pointer to a struct of this library; @last: the last member that a caller has to have. */
#define VHK_STRUCT_TAKE(own, theirs, last) vhk_struct_take((own), sizeof(*(own)), (theirs), VHK_STRUCT_UP_TO(__typeof__(*(own)), last))
#define VHK_STRUCT_GIVE(theirs, own) vhk_struct_give((theirs), (own), sizeof(*(own)))
