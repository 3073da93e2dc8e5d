#!/usr/bin/env bash
# Count people in pictures, folders, videos, streams or a camera, and draw where they are.
# Usage: bash predict.sh photo.jpg --out overlays [options of predict.py]
set -euo pipefail
# shellcheck source=utils/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/utils/setup.sh"

set_up requirements.txt
exec "$PYTHON" "$project/predict.py" "$@"
