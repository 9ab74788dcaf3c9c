import js from '@eslint/js';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

const node = ['AbortSignal', 'Buffer', 'Request', 'Response', 'URL', 'WebAssembly', 'clearTimeout', 'console', 'fetch', 'performance', 'process', 'setTimeout'];
const pages = ['BroadcastChannel', 'clearInterval', 'document', 'indexedDB', 'localStorage', 'location', 'navigator', 'setInterval', 'window'];

export default defineConfig(
  globalIgnores(['dist/', 'target/', '.cache/']),
  js.configs.recommended,
  {
    files: ['worker/**/*.ts', 'www/**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: ['worker/service/tsconfig.json', 'worker/page/tsconfig.json', 'www/tsconfig.json'], tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
    },
  },
  {
    // Scripts and tests run in Node; the functions that tests hand to a page run there.
    files: ['**/*.mjs'],
    languageOptions: { globals: Object.fromEntries([...node, ...pages].map((name) => [name, 'readonly'])) },
  },
);
