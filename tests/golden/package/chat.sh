#!/bin/sh
# Chat with it's a 中文 model on this machine, offline. Made by quantkit.
# shellcheck disable=SC2016 # The texts must not be expanded.
set -eu

model='it'"'"'s a 中文 model-q4_0.gguf'
system='You'"'"'re "helpful".

$(reboot) `reboot` 你是一个乐于助人的助手。‘引号’'

case "${1-}" in
-h | --help)
    printf '%s\n' \
        'usage: sh chat.sh [OPTION]...' \
        '' \
        'Starts a chat with the model in the folder of this script, using llama-cli (llama.cpp).' \
        'If that is not installed, it uses quantkit, else llama-completion or an old main (llama.cpp).' \
        '' \
        'Options are passed on to the program that it uses. For example, without a GPU and at temperature 0.7:' \
        '    sh chat.sh -ngl 0 --temp 0.7                           # llama.cpp' \
        '    sh chat.sh --n-gpu-layers 0 --param temperature=0.7    # quantkit'
    exit 0
    ;;
esac

# The folder of this script, even if it was started through a symbolic link. The x protects line ends in unusual names.
script=$0
if [ ! -e "$script" ]; then
    script=$(command -v -- "$script" && echo x)
    script=${script%?x}
fi
while [ -L "$script" ]; do
    target=$(readlink "$script" && echo x)
    target=${target%?x}
    case $target in
    /*) script=$target ;;
    *) case $script in */*) script=${script%/*}/$target ;; *) script=$target ;; esac ;;
    esac
done
case $script in */*) folder=${script%/*}/ ;; *) folder=. ;; esac
folder=$(CDPATH='' cd -P -- "$folder" && pwd -P && echo x)
folder=${folder%?x}

if [ ! -f "$folder/$model" ]; then
    printf 'error: %s is missing\n' "$folder/$model" >&2
    exit 1
fi
if command -v llama-cli >/dev/null 2>&1; then
    exec llama-cli -m "$folder/$model" --jinja -ngl 999 -c 4096 --temp 0.2 --keep 24 -r 'Say \x22User\x22:\x5c' -sys "$system" "$@"
fi
if command -v quantkit >/dev/null 2>&1; then
    printf 'llama-cli is not installed; using quantkit chat\n' >&2
    exec quantkit chat "$folder" "$@"
fi

# Older programs do not support chat templates, so they get the chat format as options.
program=
if command -v llama-completion >/dev/null 2>&1; then
    program=llama-completion
    set -- -no-cnv "$@"
elif command -v main >/dev/null 2>&1; then
    # Other programs are called main, too.
    case $(main --help </dev/null 2>&1) in *--in-prefix*) program=main ;; esac
fi
if [ -n "$program" ]; then
    printf 'llama-cli is not installed; using %s\n' "$program" >&2
    exec "$program" -m "$folder/$model" -ngl 999 -c 4096 --temp 0.2 --keep 24 -if -e -r '<|start_header_id|>user<|end_header_id|>\n\n' -r 'Say \x22User\x22:\x5c' --in-suffix '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n' \
        -p '<|start_header_id|>system<|end_header_id|>\n\nYou'"'"'re \x22helpful\x22.\n\n$(reboot) `reboot` 你是一个乐于助人的助手。‘引号’<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n' "$@"
fi
printf '%s\n' \
    'error: neither llama-cli nor quantkit is installed' \
    'hint: install llama.cpp (brew install llama.cpp, winget install llama.cpp,' \
    '      or https://github.com/ggml-org/llama.cpp/releases), or quantkit, which made this folder' >&2
exit 1
