#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""A public header as a manual page of section 3, in scdoc: header-to-man.py HEADER

The header's head comment is the DESCRIPTION; each declaration with the comment before it is an entry. So a function is
documented in one place, where it is declared.
"""
import os
import re
import sys


def escape(text):
    text = re.sub(r'([\\_*<])', r'\\\1', text.replace('`', "'"))
    return re.sub(r'@((?:\w|\\_)+)', lambda m: '*%s*' % m.group(1), text)


def clean(comment):
    """A comment's text in scdoc, paragraph by paragraph; @name: begins one."""
    lines = [re.sub(r'^\s*\*? ?', '', line).rstrip() for line in comment.strip().split('\n')]
    out, para, mark = [], [], ''
    for line in lines + ['']:
        field = re.match(r'@([\w, @]+?):\s*(.*)', line)
        if not line or field:
            if para:
                out.append(mark + escape(' '.join(para)))
            para, mark = [], ''
            if field:
                mark = ', '.join('*%s*' % escape(n.strip(' @')) for n in field.group(1).split(',')) + ': '
                para = [field.group(2)]
        else:
            para.append(line.strip())
    return out


def main():
    path = sys.argv[1]
    name = os.path.splitext(os.path.basename(path))[0]
    text = open(path).read()
    comments = re.findall(r'/\*(.*?)\*/', text, re.S)
    head = clean(comments[1])
    text = text[text.index('extern "C" {'):]
    print('vhk_%s(3) "vhostkit"\n' % name)
    print('# NAME\n\nvhk\\_%s - %s\n' % (name.replace('_', '\\_'), re.split(r'[.:;] ', head[0] + ' ')[0].rstrip('.').lower()))
    print('# SYNOPSIS\n\n*#include <vhostkit/%s.h>*\n' % name.replace('_', '\\_'))
    print('# DESCRIPTION\n')
    for p in head:
        print(p + '\n')
    token = re.compile(r'/\*(\*?)(?!\*)(.*?)\*/|((?:typedef |struct |enum |#define |const |int |void |ssize_t |size_t |unsigned )(?:[^;{/]|/(?!\*))*(?:\{.*?\n\}[^;]*)?;?)', re.S)
    entries, pending = [], None
    for m in token.finditer(text):
        if m.group(2) is not None:
            alone = not text[text.rfind('\n', 0, m.start()) + 1:m.start()].strip()
            pending = clean(m.group(2).strip(' -')) if alone and m.group(2).strip(' -') else pending
        elif m.group(3).strip() and not re.match(r'^(struct|enum) \w+;$', m.group(3).strip()):
            code = m.group(3).strip()
            if code.startswith('#define'):
                code = code.split('\n')[0]
            entries.append((pending, code))
            pending = None
    for doc, code in entries:
        code = re.sub(r'\s*/\*.*?\*/', '', code, flags=re.S)
        title = re.search(r'\b(vhk_\w+|VHK_\w+)\s*(?:\(|\)|\{|;|$|\s\()', code)
        if code.startswith('#define') or not title:
            continue
        if re.match(r'^struct \w+ \{', code) and not doc:
            continue
        print('## %s\n' % title.group(1).replace('_', '\\_'))
        print('```\n%s\n```\n' % code)
        for p in doc or []:
            p = re.sub(r'^(struct |enum )?%s(\(\))? - ' % re.escape(escape(title.group(1))), '', p)
            print(re.sub('^-', '\\\\-', p[:1].upper() + p[1:]) + '\n')     # a sentence, not a list
    print('# SEE ALSO\n\nvhostkit(7), vhk-protocol(7)')


main()
