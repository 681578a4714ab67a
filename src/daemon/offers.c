/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* --offer and --no-offer: protocol features by name; --quirk. Pure. */
#include <ctype.h>
#include <vhostkit/backend.h>
#include <vhostkit/frontend.h>

#include "base/error.h"
#include "daemon/options.h"

static int offer_find(const char *name, size_t n) {
        for (int bit = 0; bit < 64; bit++) {
                const char *known = vhk_protocol_feature_name((unsigned)bit);
                if (known && strlen(known) == n && !memcmp(known, name, n))
                        return bit;
        }
        return -1;
}

static const char *offer_nearest(const char *name, size_t n) {
        unsigned best = (unsigned)n / 3 + 2;
        const char *nearest = NULL;
        char upper[64];

        if (n >= sizeof(upper))
                return NULL;
        for (size_t i = 0; i < n; i++)
                upper[i] = (char)toupper((unsigned char)name[i]);
        for (unsigned bit = 0; bit < 64; bit++) {
                const char *known = vhk_protocol_feature_name(bit);
                unsigned k = known ? n >= 3 && !strncmp(known, upper, n) ? 0 : opt_distance(upper, n, known) : best;
                if (k < best) {
                        best = k;
                        nearest = known;
                }
        }
        return nearest;
}

int dmn_offer_parse(const char *option, const char *list, uint64_t *ret_bits, struct vhk_error *ret_e) {
        uint64_t bits = 0;

        for (const char *p = list; p; p = *p ? p + 1 : NULL) {
                size_t n = strcspn(p, ",");
                int bit = offer_find(p, n);
                const char *nearest = bit < 0 ? offer_nearest(p, n) : NULL;

                if (bit < 0)
                        return vhk_error_set(ret_e, -EINVAL, "option.offer", "--%s: there is no protocol feature \"%.*s\"%s%s%s", option,
                                             (int)VHK_MIN(n, (size_t)40), p, nearest ? " (nearest: " : "", nearest ? nearest : "", nearest ? ")" : "");
                bits |= VHK_BIT(bit);
                p += n;
        }
        *ret_bits = bits;
        return 0;
}

static uint64_t quirk_find(const char *name, size_t n) {
        static const struct { const char *name; uint64_t bit; } quirks[] = {
                { "log-reply-u64", VHK_QUIRK_LOG_REPLY_U64 },
        };

        for (unsigned i = 0; i < VHK_N(quirks); i++)
                if (strlen(quirks[i].name) == n && !memcmp(quirks[i].name, name, n))
                        return quirks[i].bit;
        return 0;
}

int dmn_quirk_parse(const char *list, uint64_t *ret_bits, struct vhk_error *ret_e) {
        uint64_t bits = 0;

        for (const char *p = list; p; p = *p ? p + 1 : NULL) {
                size_t n = strcspn(p, ",");
                uint64_t bit = quirk_find(p, n);

                if (!bit)
                        return vhk_error_set(ret_e, -EINVAL, "option.quirk", "--quirk: there is no quirk \"%.*s\" (there is: log-reply-u64)",
                                             (int)VHK_MIN(n, (size_t)40), p);
                bits |= bit;
                p += n;
        }
        *ret_bits = bits;
        return 0;
}
