/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * Command lines by table: --name=value, --name value, -x value, -xvalue, flags, and "--" before what is no option. What is
 * wrong is said in one sentence: an unknown option with the nearest known one, a number with its limits, a word with
 * the words that are known.
 */
#include <stdio.h>

#include "base/error.h"
#include "daemon/options.h"

#define OPT_NAME_MAX 64u

unsigned opt_distance(const char *a, size_t n_a, const char *b) {
        unsigned row[OPT_NAME_MAX + 1];
        size_t n_b = strlen(b);

        if (n_a > OPT_NAME_MAX || n_b > OPT_NAME_MAX)
                return OPT_NAME_MAX;
        for (size_t j = 0; j <= n_b; j++)
                row[j] = (unsigned)j;
        for (size_t i = 0; i < n_a; i++) {
                unsigned diagonal = row[0];
                row[0] = (unsigned)i + 1;
                for (size_t j = 0; j < n_b; j++) {
                        unsigned replace = diagonal + (a[i] != b[j]), other = VHK_MIN(row[j], row[j + 1]) + 1;
                        diagonal = row[j + 1];
                        row[j + 1] = VHK_MIN(replace, other);
                }
        }
        return row[n_b];
}

/* The known option that @name may have meant; NULL: none comes near. A beginning counts as near. */
static const char *opt_nearest(const struct opt_group *groups, unsigned n_groups, const char *name, size_t n) {
        unsigned best = (unsigned)n / 3 + 2;
        const char *nearest = NULL;

        for (unsigned g = 0; g < n_groups; g++)
                for (const struct vhk_option *o = groups[g].options; o->name; o++) {
                        unsigned k = n >= 3 && !strncmp(o->name, name, n) ? 0 : opt_distance(name, n, o->name);
                        if (k < best) {
                                best = k;
                                nearest = o->name;
                        }
                }
        return nearest;
}

static const struct vhk_option *opt_find(const struct opt_group *groups, unsigned n_groups, const char *name, size_t n, char letter,
                                         void **ret_state) {
        for (unsigned g = 0; g < n_groups; g++)
                for (const struct vhk_option *o = groups[g].options; o->name; o++)
                        if (letter ? o->letter == letter : strlen(o->name) == n && !memcmp(o->name, name, n)) {
                                *ret_state = groups[g].state;
                                return o;
                        }
        return NULL;
}

/* "64", "64K" ... 0, -EINVAL (no number), -ERANGE (more than 64 bits) */
static int opt_number(const char *s, uint64_t *ret_n) {
        static const char suffixes[] = "KMGT";
        uint64_t n = 0;
        const char *p = s;

        for (; *p >= '0' && *p <= '9'; p++)
                if (vhk_mul_overflows(n, (uint64_t)10, &n) || vhk_add_overflows(n, (uint64_t)(*p - '0'), &n))
                        return -ERANGE;
        if (p == s)
                return -EINVAL;
        const char *suffix = *p ? strchr(suffixes, *p >= 'a' ? *p - 'a' + 'A' : *p) : NULL;
        if (*p && (!suffix || p[1]))
                return -EINVAL;
        if (suffix && vhk_mul_overflows(n, UINT64_C(1) << 10 * (suffix - suffixes + 1), &n))
                return -ERANGE;
        *ret_n = n;
        return 0;
}

static int opt_set_number(const struct vhk_option *o, uint64_t *p, const char *value, struct vhk_error *ret_e) {
        uint64_t n = 0, max = o->max ? o->max : UINT64_MAX;
        int k = opt_number(value, &n);

        if (k == -EINVAL)
                return vhk_error_set(ret_e, -EINVAL, "option.number", "--%s=%.60s: must be a whole number, as 64 or 64K (K, M, G, T)",
                                     o->name, value);
        if (k == -ERANGE || n < o->min || n > max) {
                if (max == UINT64_MAX)
                        return vhk_error_set(ret_e, -EINVAL, "option.range", "--%s=%.60s: out of range, must be %llu or more", o->name,
                                             value, (unsigned long long)o->min);
                return vhk_error_set(ret_e, -EINVAL, "option.range", "--%s=%.60s: out of range, must be from %llu to %llu", o->name,
                                     value, (unsigned long long)o->min, (unsigned long long)max);
        }
        *p = n;
        return 0;
}

static int opt_set_word(const struct vhk_option *o, int *p, const char *value, struct vhk_error *ret_e) {
        char words[120] = "";
        size_t n = 0;

        for (int i = 0; o->values[i]; i++) {
                if (!strcmp(o->values[i], value)) {
                        *p = i;
                        return 0;
                }
                n += (size_t)snprintf(words + n, sizeof(words) - n, "%s%s", i ? ", " : "", o->values[i]);
                n = VHK_MIN(n, sizeof(words) - 1);
        }
        return vhk_error_set(ret_e, -EINVAL, "option.word", "--%s=%.60s: must be one of %s", o->name, value, words);
}

static int opt_set(const struct vhk_option *o, void *state, const char *value, struct vhk_error *ret_e) {
        void *p = (char *)state + o->offset;

        switch (o->type) {
        case VHK_OPTION_FLAG:
                *(int *)p = 1;
                return 0;
        case VHK_OPTION_STRING:
                if (!*value)
                        return vhk_error_set(ret_e, -EINVAL, "option.value", "--%s: needs a value", o->name);
                *(const char **)p = value;
                return 0;
        case VHK_OPTION_UINT:
                return opt_set_number(o, p, value, ret_e);
        case VHK_OPTION_ENUM:
                return opt_set_word(o, p, value, ret_e);
        }
        return -EINVAL;
}

static int opt_unknown(const struct opt_group *groups, unsigned n_groups, const char *arg, const char *name, size_t n, struct vhk_error *ret_e) {
        const char *nearest = name ? opt_nearest(groups, n_groups, name, n) : NULL;
        int shown = name ? (int)VHK_MIN(n + 2, (size_t)60) : 2;

        if (nearest)
                return vhk_error_set(ret_e, -EINVAL, "option.unknown", "unknown option %.*s (nearest: --%s)", shown, arg, nearest);
        return vhk_error_set(ret_e, -EINVAL, "option.unknown", "unknown option %.*s (--help lists the options)", shown, arg);
}

/* One option at argv[*i]; *i is moved over a value of its own. */
static int opt_parse_one(const struct opt_group *groups, unsigned n_groups, int argc, char **argv, int *i, struct vhk_error *ret_e) {
        const char *arg = argv[*i], *value = NULL, *name = NULL;
        size_t n = 0;
        void *state;
        const struct vhk_option *o;

        if (arg[1] == '-') {
                name = arg + 2;
                n = strcspn(name, "=");
                value = name[n] ? name + n + 1 : NULL;
                o = opt_find(groups, n_groups, name, n, 0, &state);
        } else {
                o = opt_find(groups, n_groups, NULL, 0, arg[1], &state);
                value = arg[2] ? arg + 2 + (arg[2] == '=') : NULL;
        }
        if (!o)
                return opt_unknown(groups, n_groups, arg, name, n, ret_e);
        if (o->type == VHK_OPTION_FLAG && value)
                return vhk_error_set(ret_e, -EINVAL, "option.value", "--%s: takes no value", o->name);
        if (o->type != VHK_OPTION_FLAG && !value) {
                if (*i + 1 >= argc)
                        return vhk_error_set(ret_e, -EINVAL, "option.value", "--%s: needs a value", o->name);
                value = argv[++*i];
        }
        return opt_set(o, state, value, ret_e);
}

int opt_parse(const struct opt_group *groups, unsigned n_groups, int argc, char **argv, int *ret_n_rest, struct vhk_error *ret_e) {
        bool options = true;
        int n = 0;

        for (int i = 1; i < argc; i++) {
                if (options && !strcmp(argv[i], "--"))
                        options = false;
                else if (options && argv[i][0] == '-' && argv[i][1]) {
                        int k = opt_parse_one(groups, n_groups, argc, argv, &i, ret_e);
                        if (k < 0)
                                return k;
                } else
                        argv[1 + n++] = argv[i];
        }
        *ret_n_rest = n;
        return 0;
}

VHK_API int vhk_options_parse(const struct vhk_option *options, void *state, int argc, char **argv, int *ret_n_rest, struct vhk_error *ret_e) {
        const struct opt_group g = { options, state };

        if (!options || !state || !ret_n_rest)
                return -EINVAL;
        return opt_parse(&g, 1, argc, argv, ret_n_rest, ret_e);
}

VHK_API void vhk_options_print(const struct vhk_option *options) {
        for (const struct vhk_option *o = options; o->name; o++) {
                char left[80], letter[8] = "    ";

                if (o->letter)
                        snprintf(letter, sizeof(letter), "-%c, ", o->letter);
                snprintf(left, sizeof(left), "%s--%s%s%s", letter, o->name, o->value_name ? "=" : "", o->value_name ? o->value_name : "");
                printf("  %-30s %s\n", left, o->help ? o->help : "");
        }
}
