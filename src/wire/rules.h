/* SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause */
/* The rules of the protocol, made from rules.def. */
#pragma once

#include <stdbool.h>

enum vhk_rule {
#define RULE(NAME, id, fatal, text) VHK_RULE_##NAME,
#include "wire/rules.def"
        VHK_N_RULES,
};

/* Close the connection (the stream cannot be followed, or this is no vhost-user peer)? Otherwise it is enough to refuse the
 * message, with an acknowledgement that is not zero or in the message's own way. */
bool vhk_rule_is_fatal(enum vhk_rule r);
