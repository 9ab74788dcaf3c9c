import js from '@eslint/js';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

const node = ['AbortController', 'AbortSignal', 'Buffer', 'DOMException', 'ReadableStream', 'Request', 'Response', 'URL', 'WebAssembly', 'clearInterval', 'clearTimeout', 'console', 'fetch', 'performance', 'process', 'queueMicrotask', 'setInterval', 'setTimeout'];

export default defineConfig(
  globalIgnores(['dist/', 'target/', '.cache/']),
  js.configs.recommended,
  {
    files: ['worker/**/*.ts', 'www/**/*.{ts,tsx}'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { project: ['worker/service/tsconfig.json', 'worker/thumbnails/tsconfig.json', 'worker/page/tsconfig.json', 'www/tsconfig.json'], tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
    },
  },
  {
    files: ['**/*.mjs'],
    languageOptions: { globals: Object.fromEntries(node.map((name) => [name, 'readonly'])) },
  },
  {
    // Functions that a test hands to a page see the page's globals, and what earlier ones left there.
    files: ['tests/browser/**/*.mjs', 'tests/fixtures/indexed-db.mjs', 'tests/package/**/*.mjs', 'tests/durability/**/*.mjs', 'tests/silence/**/*.mjs', 'bench/**/*.{js,mjs}'],
    rules: { 'no-undef': 'off' },
  },
);
