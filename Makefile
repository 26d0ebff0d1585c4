# Each target is one line over tools/make.py; on Windows, without make,
# `python tools/make.py book` does the same.
#
#   CH=05             only that chapter           (html, execute)
#   BROWSER=none      leave the browser tests out
#   PDF=none          leave TeX and the PDF out
#   TORCH_INDEX=...   where pip looks for torch first; PyTorch's CPU index is
#                     https://download.pytorch.org/whl/cpu

PYTHON ?= python3
export CH BROWSER PDF TORCH_INDEX PORT

TARGETS := setup model execute book html pdf serve lab test unit records clean help

.PHONY: $(TARGETS)
.DEFAULT_GOAL := help

$(TARGETS):
	@$(PYTHON) tools/make.py $@
