/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * What the bytes of a configuration space mean, by device type: virtio 1.3, chapter 5, as tables. All numbers are little-endian
 * (devices that are not VERSION_1 are not described).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum unit {
        U_COUNT,
        U_BYTES, U_SECTORS, U_256_BYTES, U_128_KIB,     /* sizes: said in bytes */
        U_BLOCKS, U_BLOCK_EXPONENT,     /* ... that depend on a disk's block size */
        U_FLAG,                         /* not 0: yes */
        U_HEX,                          /* bits, or an address */
        U_MBIT,                         /* Mbit/s; all ones: unknown */
        U_WORD,                         /* one of the field's words; else unknown */
        U_MAC, U_TEXT,                  /* bytes; a text ends at its first 0 */
};

/* A member of a configuration. @when: feature bits of which one at least makes it valid; 0: it always is. */
struct field {
        const char *name, *label;       /* in JSON, in print */
        uint8_t offset, size;
        enum unit unit;
        uint64_t when;
        const char *const *words;       /* U_WORD: NULL-terminated */
};

struct layout {
        uint32_t virtio_id;
        const struct field *fields;
        unsigned n_fields;
};

/** layout_of() - NULL: the type has no configuration, or none that is known here */
const struct layout *layout_of(uint32_t virtio_id);
/** layout_size() - bytes up to the end of the last field */
unsigned layout_size(const struct layout *l);

uint64_t layout_le(const uint8_t *p, unsigned n);       /* a little-endian number of @n bytes */
/** layout_has() - is @f in the @n bytes of a device with these features? */
bool layout_has(const struct field *f, unsigned n, uint64_t features);
/** layout_number() - what a field other than U_MAC and U_TEXT says; a size is in bytes */
uint64_t layout_number(const struct field *f, const uint8_t *config, unsigned n, uint64_t features);
bool layout_is_size(const struct field *f);
/** layout_word() - what U_WORD says; NULL: unknown */
const char *layout_word(const struct field *f, uint64_t v);
/** layout_is_unknown() - is @v how this field says that it does not know? */
bool layout_is_unknown(const struct field *f, uint64_t v);
/** layout_text() - what U_MAC or U_TEXT says */
void layout_text(const struct field *f, const uint8_t *config, char ret_text[64]);
