#!/bin/sh
# Installs Chromium for the browser tests if it is missing. Usage: ensure_browser.sh PYTHON
set -eu

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "Installing Chromium for the browser tests ..."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-noto-color-emoji >/dev/null
    exit 0
fi
echo "Installing Playwright's Chromium for the browser tests ..."
"$1" -m playwright install chromium || echo "No Chromium: the browser tests are skipped. Install one to run them."
