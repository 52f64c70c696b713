#!/bin/sh
set -eu
cat >/x <<'EOF'
#HERDSMAN-JOIN-BEGIN
{"version": 1, "cluster": "aaaaaaaaaa", "cluster_name": "demo", "node": "demo-w0", "role": "worker", "hub": "10.0.0.2:8785", "bind": "10.0.0.3", "roots": {"control": "c", "scheduler": "s", "node": "n"}, "bootstrap": {"certificate": "pem", "key": "KEY-MATERIAL"}, "paths": {"state": "/s", "run": "/r", "environments": "/e"}, "deadline": 1000}
#HERDSMAN-JOIN-END
EOF
exec herdsman-agent install
