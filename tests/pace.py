"""How much longer than on a quiet machine a test may take.

CI's machines are shared: there a bound only has to tell an answer from a hang. `QUIET_MACHINE=1`, as `.ci/full` sets
it, holds the bounds themselves; `benchmarks/` measures.
"""

import os

PATIENCE = 1 if os.environ.get("QUIET_MACHINE") else 10
