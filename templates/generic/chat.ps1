# Chat with [[ spec.name | line ]] on this machine, offline. Made by quantkit.
#   powershell -ExecutionPolicy Bypass -File chat.ps1 [OPTION]...
$ErrorActionPreference = 'Stop'

$name = [[ model.file | ps1 ]]
[% if spec.mmproj is not none %]
$mmproj = [[ spec.mmproj | ps1 ]]
[% endif %]
[% if system is not none %]
$system = [[ system | ps1 ]]
[% endif %]

if ($args.Count -gt 0 -and @('-h', '--help') -contains $args[0]) {
    @(
        'usage: powershell -ExecutionPolicy Bypass -File chat.ps1 [OPTION]...'
        ''
        'Starts a chat with the model in the folder of this script, using llama-cli (llama.cpp).'
        'If that is not installed, it uses quantkit, else llama-completion[% if turns %] or an old main[% endif %] (llama.cpp).'
        ''
        'Options are passed on to the program that it uses. For example, without a GPU and at temperature 0.7:'
        '    .\chat.ps1 -ngl 0 --temp 0.7                           # llama.cpp'
        '    .\chat.ps1 --n-gpu-layers 0 --param temperature=0.7    # quantkit'
[% if spec.loras %]
        'It runs in the folder of this script: give files with their whole paths.'
[% endif %]
    ) | Write-Output
    exit 0
}

function Test-Program([string] $program) {
    [bool] (Get-Command $program -CommandType Application -ErrorAction SilentlyContinue)
}

[% if turns %]
# Other programs are called main, too.
function Test-OldMain {
    # Windows PowerShell treats a program's output on stderr as an error, which would end the script.
    $ErrorActionPreference = 'Continue'
    (Test-Program 'main') -and "$(@() | & main --help 2>&1)".Contains('--in-prefix')
}

[% endif %]
$model = [IO.Path]::Combine($PSScriptRoot, $name)
if (-not (Test-Path -LiteralPath $model -PathType Leaf)) {
    [Console]::Error.WriteLine("error: $model is missing")
    exit 1
}

[% if spec.mmproj is not none %]
# Shows the model pictures: /image FILE in the chat, or --image FILE -p TEXT.
$eye = [IO.Path]::Combine($PSScriptRoot, $mmproj)
if ((Test-Path -LiteralPath $eye -PathType Leaf) -and (Test-Program 'llama-mtmd-cli')) {
    $options = @('-m', $model, '--mmproj', $eye, '--jinja'[% for option in seeing %], [[ option | ps1 ]][% endfor %])
    # Older versions of PowerShell drop double quotes in arguments.
[% if system is not none %]
    $options += @('-sys', $system.Replace('"', '\"'))
[% endif %]
    & llama-mtmd-cli @options @args
    exit $LASTEXITCODE
}

[% endif %]
if (Test-Program 'llama-cli') {
    $program = 'llama-cli'
} elseif (Test-Program 'quantkit') {
    [Console]::Error.WriteLine('llama-cli is not installed; using quantkit chat')
    & quantkit chat $PSScriptRoot @args
    exit $LASTEXITCODE
} elseif (Test-Program 'llama-completion') {
    $program = 'llama-completion'
[% if turns %]
} elseif (Test-OldMain) {
    $program = 'main'
[% endif %]
} else {
    [Console]::Error.WriteLine('error: neither llama-cli nor quantkit is installed')
    [Console]::Error.WriteLine('hint: install llama.cpp (winget install llama.cpp, or')
    [Console]::Error.WriteLine('      https://github.com/ggml-org/llama.cpp/releases), or quantkit, which made this folder')
    exit 1
}

[% if spec.loras %]
Push-Location -LiteralPath $PSScriptRoot # where the LoRA files are
[% endif %]
$text = ''
$options = @('-m', $model)
if ($program -eq 'llama-cli') {
    $options += @('--jinja'[% for option in options %], [[ option | ps1 ]][% endfor %])
[% if system is not none %]
    $text = $system
    $textOption = '-sysf'
[% endif %]
} else {
    [Console]::Error.WriteLine("llama-cli is not installed; using $program")
[% if turns %]
    # Older programs do not support chat templates, so they get the chat format as options.
    if ($program -eq 'llama-completion') { $options += '-no-cnv' }
    $options += @([% for option in turns.options %][[ option | ps1 ]][% if not loop.last %], [% endif %][% endfor %])
    $text = [[ turns.prompt | ps1 ]]
    $textOption = '-f'
[% else %]
    $options += @('--jinja', '-cnv'[% for option in options %], [[ option | ps1 ]][% endfor %])
[% if system is not none %]
    $text = $system
    $textOption = '-sysf'
[% endif %]
[% endif %]
}

# The text goes through a file, because older versions of PowerShell drop double quotes in arguments. The program removes
# the last line end.
$file = $null
try {
    if ($text) {
        $file = [IO.Path]::GetTempFileName()
        [IO.File]::WriteAllText($file, $text + "`n", (New-Object Text.UTF8Encoding $false))
        $options += @($textOption, $file)
    }
    & $program @options @args
    $code = $LASTEXITCODE
} finally {
    if ($file) { Remove-Item -LiteralPath $file -Force }
[% if spec.loras %]
    Pop-Location
[% endif %]
}
exit $code
