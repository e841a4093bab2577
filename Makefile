# Shortcuts for working on the code.

.PHONY: test clean-cache

test:
	scripts/test.sh

# never needed after an edit (kernels/cache.py keys what is compiled by its sources); it frees the space
clean-cache:
	find . -name '*.nbi' -o -name '*.nbc' | xargs rm -f
