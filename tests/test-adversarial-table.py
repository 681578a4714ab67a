#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The table in tests/adversarial/README.md and the tests that it names: test-adversarial-table.py"""
import os
import re
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
FOLDER = os.path.join(HERE, 'adversarial')
LAST = 78


def read(*path):
    with open(os.path.join(*path), encoding='utf-8') as f:
        return f.read()


def rows_of_the_sources():
    """{number: outcome} of every ROW()"""
    rows = {}
    for name in sorted(os.listdir(FOLDER)):
        if name.endswith('.c'):
            for number, outcome in re.findall(r'^ROW\((H\d+), "[^"]*", "([^"]*)"\)', read(FOLDER, name), re.M):
                assert number not in rows, '%s is there twice' % number
                rows[number] = outcome
    return rows


def lines_of_the_page():
    """[(number, outcome, tested by)] in the order of the page"""
    table = read(FOLDER, 'README.md').split('<!-- table -->')[1].split('<!-- /table -->')[0]
    lines = []
    for line in table.splitlines():
        if line.startswith('| H'):
            cells = [c.strip() for c in line.strip()[1:-1].split('|')]
            assert len(cells) == 5 and cells[1], 'not five columns, or no input: %s' % line[:60]
            lines.append((cells[0], cells[2], [t.strip() for t in cells[3].split(';') if t.strip()]))
    return lines


class Table(unittest.TestCase):
    def setUp(self):
        self.rows, self.lines = rows_of_the_sources(), lines_of_the_page()

    def test_every_number_has_one_line_in_order(self):
        self.assertEqual([n for n, _, _ in self.lines], ['H%02d' % i for i in range(1, LAST + 1)])

    def test_every_row_has_a_line_with_the_same_outcome(self):
        self.assertTrue(self.rows)
        self.assertEqual({n: o for n, o, where in self.lines if 'row' in where}, self.rows)

    def test_every_outcome_is_explained(self):
        codes = set(re.findall(r'^\| (\w+) \| [^|]+ \|$', read(FOLDER, 'README.md').split('<!-- table -->')[0], re.M))
        for number, outcome, _ in self.lines:
            with self.subTest(number):
                self.assertLessEqual(set(outcome.split('/')), codes)

    def test_every_line_names_tests_that_exist(self):
        for number, outcome, where in self.lines:
            self.assertTrue(where or outcome == 'none', '%s is tested by nothing' % number)
            for test in where:
                if test == 'row':
                    continue
                path, _, names = test.partition(':')
                with self.subTest(number, path=path):
                    text = read(SOURCE, path)
                    for name in filter(None, (n.strip() for n in names.split(','))):
                        self.assertTrue(re.search(r'^(TEST\(|    def )%s\b' % name, text, re.M), '%s has no test %s' % (path, name))


if __name__ == '__main__':
    unittest.main()
