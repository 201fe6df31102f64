#!/usr/bin/env bash
# Certifies each file in $GGUF (one a line) against $REFERENCE with the Python in $VENV; see action.yml.
# Exit codes: 0 all passed, 1 a check failed or could not be made, 2 an input is wrong.
set -u

refuse() {
    echo "error: $1" >&2
    [ -z "${GITHUB_OUTPUT:-}" ] || echo "status=error" >> "$GITHUB_OUTPUT"
    exit 2
}

trimmed() {
    local text=$1
    text=${text#"${text%%[![:space:]]*}"}
    printf '%s' "${text%"${text##*[![:space:]]}"}"
}

options=(--reference "$REFERENCE" --verify "${VERIFY:-fast}")
add() {
    [ -z "$2" ] || options+=("$1" "$2")
}

# Sets `file` to the local path of a file on the Hub, all shards of it downloaded.
fetch() {
    local repo name folder
    name=${1#*/*/}
    repo=${1%"/$name"}
    folder=$work/${repo//\//_}
    local pattern
    pattern=$(printf '%s' "$name" | sed 's/[*?[]/[&]/g')  # a file's name, and no pattern
    if [[ $pattern =~ ^(.*)-[0-9]{5}(-of-[0-9]{5}\.gguf)$ ]]; then
        pattern="${BASH_REMATCH[1]}-?????${BASH_REMATCH[2]}"
    fi
    "$VENV/bin/hf" download "$repo" --include "$pattern" --revision "${REVISION:-main}" \
        --local-dir "$folder" >&2 || return 1
    file=$folder/$name
    [ -f "$file" ] || { echo "error: $repo has no $name at ${REVISION:-main}" >&2; return 1; }
}

[ -n "$(trimmed "$REFERENCE")" ] || refuse "reference is empty: name the model that the files were made of"
mkdir -p "$OUT" || refuse "the folder $OUT cannot be made: give another one as out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
add --base "${BASE:-}"
add --template "${TEMPLATE:-}"
add --eval "${EVALUATION:-}"
case ${STRICT:-false} in
    true) options+=(--strict) ;;
    false) ;;
    *) refuse "strict is $STRICT: write true or false" ;;
esac
while IFS= read -r line; do add --adapter "$(trimmed "$line")"; done <<< "${ADAPTERS:-}"
# An empty token is none, and what a model writes must not be taken for commands to the runner.
[ -n "${HF_TOKEN:-}" ] || unset HF_TOKEN
silence=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

worst=0
rows=()
written=
while IFS= read -r line; do
    gguf=$(trimmed "$line")
    [ -n "$gguf" ] || continue
    file=$gguf
    certificate=$OUT/${gguf//[^A-Za-z0-9._-]/_}
    while [[ $'\n'$written == *$'\n'"$certificate"$'\n'* ]]; do certificate=${certificate}_; done  # a/b and a_b
    written+=$certificate$'\n'
    certificate=$certificate.json
    rm -f "$certificate"
    code=0
    echo "::stop-commands::$silence"
    if [ ! -e "$file" ] && [[ $file =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*/.+\.gguf$ ]]; then
        fetch "$gguf" || code=2
    fi
    if [ "$code" = 0 ]; then
        "$VENV/bin/python" "$ROOT/scripts/export_gguf.py" certify "${options[@]}" --out "$certificate" -- "$file" \
            || code=$?
    fi
    echo
    echo "::$silence::"
    case $code in
        0) result="passed" ;;
        1) if [ -f "$certificate" ]; then result="failed a check"; else result="could not be checked"; fi ;;
        *) result="was refused" ; code=2 ;;
    esac
    [ "$code" = 0 ] || echo "::error title=Certificate::$gguf $result"
    rows+=("| \`${gguf//|/}\` | $result |")
    [ "$code" -le "$worst" ] || worst=$code
done <<< "$GGUF"
[ ${#rows[@]} -gt 0 ] || refuse "gguf names no file: give a path, or OWNER/NAME/FILE.gguf"

if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
    printf '%s\n' "| file | certificate |" "|---|---|" "${rows[@]}" >> "$GITHUB_STEP_SUMMARY"
fi
if [ -n "${GITHUB_OUTPUT:-}" ]; then
    case $worst in 0) status=pass ;; 1) status=fail ;; *) status=error ;; esac
    echo "status=$status" >> "$GITHUB_OUTPUT"
fi
exit "$worst"
