// What the project needs from outside, installed on first use: npm packages, the Rust toolchain,
// wasm-bindgen's program, browsers. Everything that is not npm's or rustup's lands in `.cache/`.

import { existsSync, readFileSync, readdirSync, statSync } from 'node:fs';
import { CommandFailed, path, run } from './run.mjs';

const newer = (a, b) => statSync(a).mtimeMs > statSync(b).mtimeMs;

/** Installs the npm packages of the lockfile when they are missing or older than it. */
export async function npmPackages() {
  const installed = path('node_modules', '.package-lock.json');
  if (existsSync(installed) && !newer(path('package-lock.json'), installed)) return;
  console.log('Installing npm packages');
  await run('npm', ['ci', '--no-fund', '--no-audit', '--loglevel=error']);
}

/** Makes sure that cargo answers with the toolchain and the targets of rust-toolchain.toml. */
export async function rustToolchain() {
  const cargo = await run('cargo', ['--version'], { quiet: true, mayFail: true });
  if (cargo.code === 127) throw new CommandFailed('cargo was not found. Install Rust with rustup (https://rustup.rs) and open a new terminal.');
  const rustup = await run('rustup', ['target', 'list', '--installed'], { quiet: true, mayFail: true });
  if (rustup.code === 127) return; // A Rust that rustup does not manage: cargo will say what it lacks.
  if (cargo.code === 0 && rustup.output.includes('wasm32-unknown-unknown')) return;
  const channel = /channel = "([^"]+)"/.exec(readFileSync(path('rust-toolchain.toml'), 'utf8'))[1];
  await run('rustup', ['toolchain', 'install', channel, '--profile', 'minimal', '--component', 'rustfmt,clippy', '--target', 'wasm32-unknown-unknown']);
}

/**
 * A wasm-bindgen program of exactly the version that Cargo.lock names: the glue and the library
 * must match. The one of this machine where it has that, else one that is built from
 * scripts/wasm-bindgen.
 */
export async function wasmBindgen() {
  const version = /name = "wasm-bindgen"\nversion = "([^"]+)"/.exec(readFileSync(path('Cargo.lock'), 'utf8'))[1];
  const present = await run('wasm-bindgen', ['--version'], { quiet: true, mayFail: true });
  if (present.output.trim() === `wasm-bindgen ${version}`) return 'wasm-bindgen';
  const manifest = path('scripts', 'wasm-bindgen', 'Cargo.toml');
  if (!readFileSync(manifest, 'utf8').includes(`wasm-bindgen-cli-support = "=${version}"`)) {
    throw new CommandFailed(`Cargo.lock has wasm-bindgen ${version}: scripts/wasm-bindgen/Cargo.toml must name the same version.`);
  }
  const target = path('.cache', 'wasm-bindgen');
  await run('cargo', ['build', '--quiet', '--locked', '--manifest-path', manifest, '--target-dir', target]);
  return `${target}/debug/ephapse-wasm-bindgen`;
}

/**
 * The path of a Chromium; installs Debian's when this is Debian and we may. `CHROMIUM` overrides
 * the search.
 */
export async function chromium() {
  return process.env.CHROMIUM ?? program('Chromium', ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'], ['chromium'], 'CHROMIUM');
}

/** The path of a Firefox, as `chromium` finds its program. */
export async function firefox() {
  return process.env.FIREFOX ?? program('Firefox', ['firefox-esr', 'firefox', '/Applications/Firefox.app/Contents/MacOS/firefox'], ['firefox-esr'], 'FIREFOX');
}

/**
 * WebKitGTK's driver, its small browser, and a display for them, as `chromium` finds its program.
 * `WEBKIT_BROWSER` is another browser of WebKitGTK.
 */
export async function webkit() {
  const packages = ['webkit2gtk-driver', 'xvfb', 'xauth', 'libgl1-mesa-dri', 'gstreamer1.0-gl'];
  const driver = await program('WebKitGTK', ['WebKitWebDriver'], packages);
  const display = await program('WebKitGTK', ['xvfb-run'], packages);
  const browser = process.env.WEBKIT_BROWSER ?? miniBrowser();
  if (!browser) throw new CommandFailed('The tests need the MiniBrowser of WebKitGTK. Install webkit2gtk-driver, or set WEBKIT_BROWSER to its path.');
  return { driver, display, browser };
}

/** It lies in a directory of the library that the driver was built with. */
function miniBrowser() {
  for (const lib of ['/usr/lib', '/usr/lib64', '/usr/libexec', ...subdirectories('/usr/lib')]) {
    for (const version of ['webkit2gtk-4.1', 'webkitgtk-6.0', 'webkit2gtk-4.0']) {
      const found = `${lib}/${version}/MiniBrowser`;
      if (existsSync(found)) return found;
    }
  }
  return undefined;
}

function subdirectories(directory) {
  return existsSync(directory) ? readdirSync(directory).filter((name) => name.endsWith('-linux-gnu')).map((name) => `${directory}/${name}`) : [];
}

/**
 * The path of the first of some programs; installs Debian packages when this is Debian and we may.
 */
async function program(what, names, packages, variable) {
  const found = find(names);
  if (found) return found;
  if (mayInstall()) {
    await install(packages);
    const installed = find(names);
    if (installed) return installed;
  }
  const orElse = variable ? `, or set ${variable} to its path` : '';
  throw new CommandFailed(`The tests need ${what} (${names[0]}). Install it (Debian and Ubuntu: sudo apt-get install ${packages.join(' ')})${orElse}.`);
}

const mayInstall = () => existsSync('/etc/debian_version') && process.getuid?.() === 0;

async function install(packages) {
  console.log(`Installing ${packages.join(', ')}`);
  const apt = { env: { DEBIAN_FRONTEND: 'noninteractive' }, quiet: true };
  await run('apt-get', ['update'], apt);
  await run('apt-get', ['install', '-y', '--no-install-recommends', ...packages], apt);
}

function find(names) {
  for (const directory of process.env.PATH.split(':')) {
    for (const name of names) if (!name.startsWith('/') && existsSync(`${directory}/${name}`)) return `${directory}/${name}`;
  }
  return names.find((name) => name.startsWith('/') && existsSync(name));
}

/** A Python that has matrix-nio with its encryption, in `.cache/`. */
export function nio() {
  return python('nio', '0.26.0', 'matrix-nio[e2e]', ['nio', 'vodozemac']);
}

/** A Python that has Synapse, in `.cache/`. */
export function synapse() {
  return python('synapse', '1.163.2', 'matrix-synapse', ['synapse.app.homeserver']);
}

/** The programs for certificates and for networks of tests' own. */
export async function networkTools() {
  await program('OpenSSL', ['openssl'], ['openssl']);
  await program('iproute2', ['ip'], ['iproute2']);
}

/** The path of a Python with that version of a package, from which `modules` can be imported. */
async function python(name, version, pypi, modules) {
  const home = path('.cache', `${name}-${version}`);
  const installed = `${home}/bin/python`;
  const works = () => run(installed, ['-c', `import ${modules.join(', ')}`], { quiet: true, mayFail: true });
  if ((await works()).code === 0) return installed;
  console.log(`Installing ${pypi} ${version} into .cache (once)`);
  const make = () => run('python3', ['-m', 'venv', '--clear', home], { quiet: true, mayFail: true });
  let made = await make();
  if (made.code !== 0 && mayInstall()) {
    await install(['python3-venv']);
    made = await make();
  }
  if (made.code !== 0) {
    throw new CommandFailed(`The tests with ${pypi} need Python 3.10 or newer with its venv module (Debian and Ubuntu: sudo apt-get install python3-venv).\n${made.output}`);
  }
  await run(installed, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `${pypi}==${version}`]);
  return installed;
}

/** Everything but the browser. */
export async function setup() {
  await npmPackages();
  await rustToolchain();
  return wasmBindgen();
}

