# What tests/run.sh and benchmarks.sh install, from the root of the checkout.

# Install requirement files into .venv, unless they are as they were when that was last done.
install() {
    local python=${PYTHON:-python3} file changed=()
    for file in "$@"; do
        cmp -s "$file" ".venv/installed-${file//\//-}" || changed+=("$file")
    done
    [ ${#changed[@]} -gt 0 ] || return 0
    if [ ! -x .venv/bin/pip ]; then
        if ! "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then
            echo "error: Python 3.10, 3.11 or 3.12 is needed, but $python is $("$python" -V 2>&1 || true);" \
                 "name another: PYTHON=python3.12" >&2
            exit 1
        fi
        "$python" -m venv .venv
    fi
    .venv/bin/pip install --quiet $(printf -- '-r %s ' "$@")
    for file in "$@"; do
        cp "$file" ".venv/installed-${file//\//-}"
    done
}

# Stockfish, which the chess tasks play against, where it is missing and may be installed.
install_stockfish() {
    ! command -v stockfish > /dev/null && [ ! -x /usr/games/stockfish ] || return 0
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || return 1
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq stockfish > /dev/null
}

# WordNet, which the table of twenty_questions is compared with, where it is missing and may be installed.
install_wordnet() {
    [ ! -f /usr/share/wordnet/data.noun ] || return 0
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || return 1
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq wordnet-base > /dev/null
}

# The Syzygy tables of three and four men, which are in python-chess's source archive, to data/syzygy.
fetch_tables() {
    [ ! -d data/syzygy ] || return 0
    local folder
    folder=$(mktemp -d)
    .venv/bin/pip download --quiet --no-deps --no-binary :all: --dest "$folder" chess==1.11.2 &&
        tar -xzf "$folder"/chess-*.tar.gz -C "$folder" && mkdir -p data &&
        mv "$folder"/chess-*/data/syzygy/regular data/syzygy
    local status=$?
    rm -rf "$folder"
    return $status
}
