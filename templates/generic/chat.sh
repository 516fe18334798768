#!/bin/sh
# Chat with [[ spec.name | line ]] on this machine, offline. Made by quantkit.
# shellcheck disable=SC2016 # The texts must not be expanded.
set -eu

model=[[ model.file | sh ]]
[% if spec.mmproj is not none %]
mmproj=[[ spec.mmproj | sh ]]
[% endif %]
[% if system is not none %]
system=[[ system | sh ]]
[% endif %]

case "${1-}" in
-h | --help)
    printf '%s\n' \
        'usage: sh chat.sh [OPTION]...' \
        '' \
        'Starts a chat with the model in the folder of this script, using llama-cli (llama.cpp).' \
        'If that is not installed, it uses quantkit, else llama-completion[% if turns %] or an old main[% endif %] (llama.cpp).' \
        '' \
        'Options are passed on to the program that it uses. For example, without a GPU and at temperature 0.7:' \
        '    sh chat.sh -ngl 0 --temp 0.7                           # llama.cpp' \
        '    sh chat.sh --n-gpu-layers 0 --param temperature=0.7    # quantkit'[% if spec.loras %] \
        'It runs in the folder of this script: give files with their whole paths.'[% endif %]

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
[% if spec.loras %]
cd -P -- "$folder" # where the LoRA files are
[% endif %]
[% if spec.mmproj is not none %]
# Shows the model pictures: /image FILE in the chat, or --image FILE -p TEXT.
if [ -f "$folder/$mmproj" ] && command -v llama-mtmd-cli >/dev/null 2>&1; then
    exec llama-mtmd-cli -m "$folder/$model" --mmproj "$folder/$mmproj" --jinja[% for option in seeing %] [[ option | sh ]][% endfor %][% if system is not none %] -sys "$system"[% endif %] "$@"
fi
[% endif %]
if command -v llama-cli >/dev/null 2>&1; then
    exec llama-cli -m "$folder/$model" --jinja[% for option in options %] [[ option | sh ]][% endfor %][% if system is not none %] -sys "$system"[% endif %] "$@"
fi
if command -v quantkit >/dev/null 2>&1; then
    printf 'llama-cli is not installed; using quantkit chat\n' >&2
    exec quantkit chat "$folder" "$@"
fi
[% if turns %]

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
    exec "$program" -m "$folder/$model"[% for option in turns.options %] [[ option | sh ]][% endfor %] \
        -p [[ turns.prompt | sh ]] "$@"
fi
[% else %]
if command -v llama-completion >/dev/null 2>&1; then
    printf 'llama-cli is not installed; using llama-completion\n' >&2
    exec llama-completion -m "$folder/$model" --jinja -cnv[% for option in options %] [[ option | sh ]][% endfor %][% if system is not none %] -sys "$system"[% endif %] "$@"
fi
[% endif %]
printf '%s\n' \
    'error: neither llama-cli nor quantkit is installed' \
    'hint: install llama.cpp (brew install llama.cpp, winget install llama.cpp,' \
    '      or https://github.com/ggml-org/llama.cpp/releases), or quantkit, which made this folder' >&2
exit 1
