"""Texts that break out of quotes, lines and encodings where those are not written with care.

``HOSTILE`` can be carried by files and command lines, ``NOT_CARRIED`` by none.
"""

from __future__ import annotations

HOSTILE = {
    "single quotes": "it's 'quoted' ''twice''",
    "double quotes": 'say "hi" now "',
    "triple quotes": 'say """hi""" now',
    "triple quotes at line ends": 'a """\nb\n"""\nc"""',
    "only quotes": '"""""""',
    "braces": "{{ .Prompt }} {% x %} {{ bos_token }} [[ spec.name ]] [% if x %] ${HOME} $(( 1 ))",
    "substitution": "$(touch pwned) `touch pwned` ; touch pwned & | > pwned",
    "end of a string and a command": "'; touch pwned; '\"; touch pwned; \"",
    "PowerShell": "'; New-Item pwned; ‘; $(New-Item pwned) `n $env:HOME @args %PATH%",
    "newlines": "\nfirst\n\nsecond\n",
    "crlf": "first\r\nsecond\r\n",
    "unicode line ends": "a\u2028b\u2029c\x85d\x0be\x0cf",
    "backslashes": "\\n \\\\ \\' \\\" \\",
    "escapes of other programs": "\\x41 \\0 \\c %s %n %% \\u0041 &quot; !! ~ * ? [a]",
    "chinese": "你是一个乐于助人的助手。“引号”‘单引号’",
    "right to left": "\u200fשלום\u202e evil \u202c",
    "joined emoji": "👩\u200d👩\u200d👧 \u00a0 \ufeff",
    "control": "\x01\x1b[31mred\x7f\t",
    "dash": "-sys --help",
    "spaces": "   ",
    "here-document": "EOF\n'@\n@'\n#>",
    "long": "长 text " * 12_000,
}

NOT_CARRIED = {
    "NUL": "a\0b",
    "half of a surrogate pair": "a\ud800b",
}
