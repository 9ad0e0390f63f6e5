#!/usr/bin/env bash
# Checks of the sources that no compiler makes. Prints every offence and fails if there is one.
set -uo pipefail
shopt -s lastpipe # `offences` ends pipelines and sets a variable
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

failed=0
# offences TITLE: reads the offences from standard input.
offences() {
    local list
    list=$(cat)
    if [ -n "$list" ]; then
        printf '%s:\n%s\n' "$1" "$list" | sed '2,$s/^/  /'
        failed=1
    fi
}

code=('*.h' '*.cpp' '*.cu' '*.cuh')
# This file has to spell what it looks for.
everything=(. ':!scripts/style_check.sh' ':!*.safetensors')

git ls-files -- "${code[@]}" '*.cmake' '*CMakeLists.txt' '*.sh' | xargs -r wc -l |
    awk '$2 != "total" && $1 > 400 {print $2 ": " $1 " lines"}' | offences "Files over 400 lines"

git grep -nIE '\b(TODO|FIXME|XXX)\b' -- "${everything[@]}" | cut -c1-160 | offences "Left-over marks"

git grep -nIE '(^|[^A-Za-z0-9_.])/(work|root|home|farm|tmp)/[A-Za-z0-9_.]' -- "${everything[@]}" | cut -c1-160 |
    offences "Paths of one machine"

git ls-files -- "${code[@]}" | while read -r file; do
    head -n 1 "$file" | grep -qxF '// SPDX-License-Identifier: Apache-2.0' || echo "$file"
done | offences "Files whose first line is not the SPDX line"

# A consumer needs the standard library and nothing else: <vector>, but not <fmt/format.h> or <cuda.h>.
git grep -nE '^ *# *include' -- include | grep -vE '#include ("tokamak/[a-z_/]+\.h"|<[a-z_]+>)' |
    offences "Public headers that include more than the C++ standard library"

exit "$failed"
