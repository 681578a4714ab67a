/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/*
 * vhk-protocol-table [--format=markdown|scdoc] [--rules]: the rows of messages.def and gpu.def (or of rules.def) as tables, for the
 * manual page and the README. Built with the tree, not installed.
 */
#include <stdio.h>

#include <vhostkit/frontend.h>

#include "wire/gpu.h"
#include "wire/wire.h"

static const char *const payload_names[] = {
#define PAYLOAD(ID, name, size) [VHK_P_##ID] = #name,
#include "wire/payloads.def"
};

static const char *const fds_names[] = {
        [VHK_FDS_NONE] = "0", [VHK_FDS_ONE] = "1", [VHK_FDS_OPTIONAL] = "0 or 1", [VHK_FDS_UNLESS_BIT_8] = "1, none with bit 8",
        [VHK_FDS_REGIONS] = "1 per region", [VHK_FDS_IF_ZERO] = "1 on success", [VHK_FDS_IF_SIZE] = "1 unless empty",
};

static const char *const rule_names[] = {
        [VHK_REPLY_NEVER] = "none", [VHK_REPLY_ASKED] = "ack if asked", [VHK_REPLY_ACKED] = "ack always",
        [VHK_REPLY_ALWAYS] = "reply", [VHK_REPLY_LOG_BASE] = "reply",
};

static const char *const scope_names[] = {
        [VHK_SCOPE_DEVICE] = "device", [VHK_SCOPE_QUIESCED] = "device, stopped", [VHK_SCOPE_RING] = "ring",
        [VHK_SCOPE_RING_BYTE] = "ring",
};

struct text {
        char s[200];
};

static void add(struct text *t, const char *separator, const char *word) {
        size_t n = strlen(t->s);

        snprintf(t->s + n, sizeof(t->s) - n, "%s%s", n ? separator : "", word);
}

/* All sizes of a payload: "(24 or 20)", "(8+32n or 8+40n)". */
static void add_sizes(struct text *t, enum vhk_payload payload) {
        const char *separator = " (";
        char one[40];

        for (const struct vhk_variant *v = vhk_variants; v < vhk_variants + vhk_n_variants; v++) {
                if (v->payload != payload)
                        continue;
                snprintf(one, sizeof(one), v->each == 1 ? "%u+n" : v->each ? "%u+%un" : "%u", v->fixed, v->each);
                add(t, separator, one);
                separator = " or ";
        }
        add(t, "", ")");
}

static void add_bits(struct text *t, const char *prefix, uint64_t bits, const char *suffix, bool protocol) {
        char one[80];

        for (unsigned i = 0; i < 64; i++) {
                if (!(bits & VHK_BIT(i)))
                        continue;
                const char *name = protocol ? vhk_protocol_feature_name(i) : i == VHK_F_NET_MTU ? "NET_F_MTU" : vhk_feature_name(0, i);
                snprintf(one, sizeof(one), "%s%s%s", prefix, name, suffix);
                add(t, ", ", one);
        }
}

static struct text gate(const struct vhk_gate *g) {
        struct text t = { "" };

        add_bits(&t, "", g->offered, " offered", false);
        add_bits(&t, "", g->virtio, "", false);
        add_bits(&t, "", g->protocol, "", true);
        add_bits(&t, "not ", g->without, "", true);
        if (!t.s[0])
                add(&t, "", "-");
        return t;
}

static struct text request(const struct vhk_row *row) {
        struct text t = { "" };

        add(&t, "", row->request == VHK_P_NONE ? "-" : payload_names[row->request]);
        if (row->request != VHK_P_NONE)
                add_sizes(&t, row->request);
        return t;
}

static struct text reply(const struct vhk_row *row) {
        struct text t = { "" };

        add(&t, "", rule_names[row->reply_rule]);
        if (row->reply_rule >= VHK_REPLY_ALWAYS) {
                add(&t, ": ", row->reply == VHK_P_NONE ? "empty" : payload_names[row->reply]);
                if (row->reply != row->request && row->reply != VHK_P_NONE && row->reply != VHK_P_U64)
                        add_sizes(&t, row->reply);
                if (row->reply_fds != VHK_FDS_NONE)
                        add(&t, ", fds ", fds_names[row->reply_fds]);
        }
        return t;
}

/* One line of cells. scdoc takes an underscore for emphasis. */
static void print_cells(bool scdoc, const char *const *cells, unsigned n) {
        for (unsigned i = 0; i < n; i++) {
                fputs(!scdoc ? "| " : !i ? "|  " : ":  ", stdout);
                for (const char *c = cells[i]; *c; c++)
                        printf(scdoc && strchr("_*\\", *c) ? "\\%c" : "%c", *c);
                fputs(scdoc ? "\n" : " ", stdout);
        }
        if (!scdoc)
                fputs("|\n", stdout);
}

static void print_head(bool scdoc, const char *const *cells, unsigned n) {
        if (scdoc) {
                for (unsigned i = 0; i < n; i++)
                        printf("%c[ *%s*\n", i ? ':' : '|', cells[i]);
                return;
        }
        print_cells(false, cells, n);
        for (unsigned i = 0; i < n; i++)
                fputs("|---", stdout);
        fputs("|\n", stdout);
}

static void print_rows(bool scdoc, enum vhk_dir dir) {
        static const char *const head[] = { "id", "message", "request", "fds", "needs", "answer", "witness", "about", "kernel twin" };
        unsigned n = scdoc ? 7 : VHK_N(head);           /* a manual page is narrow */

        print_head(scdoc, head, n);
        for (const struct vhk_row *row = vhk_rows; row < vhk_rows + vhk_n_rows; row++) {
                if (row->dir != dir)
                        continue;
                char id[16];
                struct text req = request(row), g = gate(&row->gate), rep = reply(row);
                const char *cells[] = { id, row->name, req.s, fds_names[row->fds], g.s, rep.s, row->witness,
                                        scope_names[row->scope], strcmp(row->ioctl_twin, "none") ? row->ioctl_twin : "-" };
                snprintf(id, sizeof(id), "%u", row->id);
                print_cells(scdoc, cells, n);
        }
}

static const struct { const char *name; uint32_t each; } gpu_payloads[] = {
#define PAYLOAD(ID, name, size, each) [VHK_G_##ID] = { #name, each },
#include "wire/gpu.def"
};

static const char *const gpu_features[] = {
#define FEATURE(bit, name) [bit] = #name,
#include "wire/gpu.def"
};

static struct text gpu_payload(enum vhk_gpu_payload payload, const char *none) {
        struct text t = { "" };
        char size[40];

        add(&t, "", payload == VHK_G_NONE ? none : gpu_payloads[payload].name);
        snprintf(size, sizeof(size), gpu_payloads[payload].each ? " (%u+%un)" : " (%u)", vhk_gpu_size(payload), gpu_payloads[payload].each);
        if (payload != VHK_G_NONE)
                add(&t, "", size);
        return t;
}

static void print_gpu_rows(bool scdoc) {
        static const char *const head[] = { "id", "message", "request", "fds", "needs", "answer", "witness" };

        print_head(scdoc, head, VHK_N(head));
        for (const struct vhk_gpu_row *row = vhk_gpu_rows; row < vhk_gpu_rows + vhk_n_gpu_rows; row++) {
                struct text req = gpu_payload(row->request, "-"), rep = gpu_payload(row->reply, row->answered ? "empty" : "none");
                char id[16];
                const char *cells[] = { id, row->name, req.s, row->fds == VHK_GPU_FDS_NONE ? "0" : "1 unless off",
                                        row->gate ? gpu_features[__builtin_ctzll(row->gate)] : "-", rep.s, row->witness };
                snprintf(id, sizeof(id), "%u", row->id);
                print_cells(scdoc, cells, VHK_N(head));
        }
}

static void print_rules(bool scdoc) {
        static const char *const head[] = { "rule", "what it asks for", "when it is broken" };

        print_head(scdoc, head, VHK_N(head));
        for (unsigned i = 1; i < VHK_N_RULES; i++) {
                const char *cells[] = { vhk_rule_id(i), vhk_rule_text(i), vhk_rule_is_fatal(i) ? "the connection closes" : "the message is refused" };
                print_cells(scdoc, cells, VHK_N(cells));
        }
}

int main(int argc, char **argv) {
        bool scdoc = false, rules = false;

        for (int i = 1; i < argc; i++) {
                if (!strcmp(argv[i], "--format=scdoc"))
                        scdoc = true;
                else if (!strcmp(argv[i], "--rules"))
                        rules = true;
                else if (strcmp(argv[i], "--format=markdown")) {
                        fprintf(stderr, "usage: vhk-protocol-table [--format=markdown|scdoc] [--rules]\n");
                        return 2;
                }
        }

        if (rules) {
                print_rules(scdoc);
                return 0;
        }
        printf("%s %s\n\n", scdoc ? "##" : "###", "From the front-end");
        print_rows(scdoc, VHK_FROM_FRONTEND);
        fputs("\n", stdout);
        printf("%s %s\n\n", scdoc ? "##" : "###", "From the back-end, on its own channel");
        print_rows(scdoc, VHK_FROM_BACKEND);
        fputs("\n", stdout);
        printf("%s %s\n\n", scdoc ? "##" : "###", "From the back-end, on the display's socket (GPU_SET_SOCKET)");
        print_gpu_rows(scdoc);
        return 0;
}
