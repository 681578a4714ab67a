#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The ways in which a user builds and installs: test-install.py SOURCE BUILD

`make install` into one prefix and then into another, a program linked statically by what pkg-config says, vhostkit as a
subproject, and the build types that distributions use. Each builds what is installed, without optimization and without tests.
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

SOURCE, BUILD = sys.argv[1], sys.argv[2]
TOOLS = ['make', 'meson', 'ninja', 'pkg-config']
FRONT_END, DEVICE = re.findall(r'```c\n(.*?)```', open(os.path.join(SOURCE, 'README.md')).read(), re.S)[:2]
WRAP = """[wrap-file]
directory = vhostkit
[provide]
dependency_names = vhostkit, vhostkit-daemon
"""
CONSUMER = """project('consumer', 'c', default_options: ['default_library=shared'])
executable('sector', 'sector.c', dependencies: dependency('vhostkit'))
executable('dice', 'dice.c', dependencies: dependency('vhostkit-daemon'))
"""


class Install(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix='install-', dir=BUILD)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(('MAKE', 'MFLAGS', 'MESON', 'DESTDIR'))}
        self.env['CFLAGS'] = '-O0 -g0'

    def tearDown(self):
        shutil.rmtree(self.dir)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def run_ok(self, *args, **kw):
        r = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env=dict(self.env, **kw.pop('env', {})), **kw)
        self.assertEqual(r.returncode, 0, '%s\n%s' % (' '.join(args), r.stdout[-4000:]))
        return r.stdout

    def write(self, name, text):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), 'w') as f:
            f.write(text)
        return self.path(name)

    def installed(self, prefix):
        return [os.path.relpath(f, self.path(prefix)) for f in glob.glob(self.path(prefix, '**'), recursive=True)
                if os.path.isfile(f)]

    def compile(self, source, package, prefix, *options):
        pc = os.path.dirname(glob.glob(self.path(prefix, '**', 'vhostkit.pc'), recursive=True)[0])
        flags = self.run_ok('pkg-config', '--cflags', '--libs', *options, package, env={'PKG_CONFIG_PATH': pc}).split()
        if options:             # the static libraries of vhostkit, whatever else is linked as it comes
            flags = [re.sub(r'^-l(vhostkit.*)', r'-l:lib\1.a', f) for f in flags]
        self.run_ok('cc', self.write('src/' + source, DEVICE if 'dice' in source else FRONT_END), *flags, '-o',
                    self.path(source[:-2]))
        return self.run_ok('ldd', self.path(source[:-2]))

    def test_make_install(self):
        make = ['make', '-s', '-C', SOURCE, 'BUILD=' + self.path('build')]
        self.run_ok(*make, 'setup', 'PREFIX=' + self.path('first'))
        self.run_ok(*make, 'install', 'PREFIX=' + self.path('second'))
        self.assertEqual(self.installed('first'), [], 'a later PREFIX replaces the first')
        files = self.installed('second')
        for name in ('bin/vhk', 'bin/vhk-blk', 'include/vhostkit/blk.h', 'include/vhostkit/daemon.h'):
            self.assertIn(name, files)
        with open(self.path('second', 'share', 'qemu', 'vhost-user', '50-vhk-blk.json')) as f:
            self.assertIn(self.path('second', 'bin', 'vhk-blk'), f.read())
        built = os.listdir(self.path('build', 'bin'))
        self.assertEqual([f for f in built if f.startswith('test-') and not f.endswith('.p')], [], 'install builds no tests')
        out = self.run_ok(*make, 'install')
        self.assertIn('LD_LIBRARY_PATH=' + self.path('second'), out, 'names what a program needs to find the library')

        self.assertNotIn('libvhostkit', self.compile('sector.c', 'vhostkit', 'second', '--static'))
        self.assertNotIn('libvhostkit', self.compile('dice.c', 'vhostkit-daemon', 'second', '--static'))
        self.assertIn('libvhostkit-daemon.so', self.compile('dice.c', 'vhostkit-daemon', 'second'))

    def test_subproject_static_without_assertions(self):
        self.write('meson.build', CONSUMER)
        self.write('sector.c', FRONT_END)
        self.write('dice.c', DEVICE)
        self.write('subprojects/vhostkit.wrap', WRAP)
        os.symlink(SOURCE, self.path('subprojects', 'vhostkit'))
        self.run_ok('meson', 'setup', self.path('build'), self.dir, '-Ddefault_library=static', '-Db_ndebug=true',
                    '-Dvhostkit:werror=true')
        self.run_ok('ninja', '-C', self.path('build'), 'sector', 'dice')
        self.assertNotIn('libvhostkit', self.run_ok('ldd', self.path('build', 'dice')))
        usage = subprocess.run([self.path('build', 'sector')], stderr=subprocess.PIPE, text=True)
        self.assertEqual((usage.returncode, usage.stderr), (1, 'usage: sector ENDPOINT\n'))

    def test_configures_with_shared_libraries_alone(self):
        self.run_ok('meson', 'setup', self.path('build'), SOURCE, '-Ddefault_library=shared')


if __name__ == '__main__':
    missing = [t for t in TOOLS if not shutil.which(t)]
    if missing:
        print('cannot: needs ' + ', '.join(missing))
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=2)
