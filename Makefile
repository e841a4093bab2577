# Shortcuts for working on the code.

.PHONY: test clean-cache

test:
	scripts/test.sh

# numba's disk cache does not notice edits in other files than the cached function's own
clean-cache:
	find . -name '*.nbi' -o -name '*.nbc' | xargs rm -f
