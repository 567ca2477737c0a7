# What tests/run.sh and benchmarks.sh install, from the root of the checkout.

# Install requirement files into .venv, in the versions of constraints.txt, unless that has been done already.
install() {
    local python=${PYTHON:-python3} file changed=()
    for file in "$@"; do
        cat constraints.txt "$file" | cmp -s - ".venv/installed-${file//\//-}" || changed+=("$file")
    done
    [ ${#changed[@]} -gt 0 ] || return 0
    if [ ! -x .venv/bin/pip ]; then
        if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            echo "error: Python 3.10 or newer is needed, but $python is $("$python" -V 2>&1 || true);" \
                 "name another: PYTHON=python3.12" >&2
            exit 1
        fi
        "$python" -m venv .venv
    fi
    echo "installing into .venv: minutes the first time, 1.4 GB or, with CUDA, several more" >&2
    .venv/bin/pip install --quiet --constraint constraints.txt $(printf -- '-r %s ' "$@")
    for file in "$@"; do
        cat constraints.txt "$file" > ".venv/installed-${file//\//-}"
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
