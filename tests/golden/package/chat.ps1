# Chat with it's a 中文 model on this machine, offline. Made by quantkit.
#   powershell -ExecutionPolicy Bypass -File chat.ps1 [OPTION]...
$ErrorActionPreference = 'Stop'

$name = 'it''s a 中文 model-q4_0.gguf'
$system = 'You''re "helpful".

$(reboot) `reboot` 你是一个乐于助人的助手。‘‘引号’’'

if ($args.Count -gt 0 -and @('-h', '--help') -contains $args[0]) {
    @(
        'usage: powershell -ExecutionPolicy Bypass -File chat.ps1 [OPTION]...'
        ''
        'Starts a chat with the model in the folder of this script, using llama-cli (llama.cpp).'
        'If that is not installed, it uses quantkit, else llama-completion or an old main (llama.cpp).'
        ''
        'Options are passed on to the program that it uses. For example, without a GPU and at temperature 0.7:'
        '    .\chat.ps1 -ngl 0 --temp 0.7                           # llama.cpp'
        '    .\chat.ps1 --n-gpu-layers 0 --param temperature=0.7    # quantkit'
    ) | Write-Output
    exit 0
}

function Test-Program([string] $program) {
    [bool] (Get-Command $program -CommandType Application -ErrorAction SilentlyContinue)
}

# Other programs are called main, too.
function Test-OldMain {
    # Windows PowerShell treats a program's output on stderr as an error, which would end the script.
    $ErrorActionPreference = 'Continue'
    (Test-Program 'main') -and "$(@() | & main --help 2>&1)".Contains('--in-prefix')
}

$model = [IO.Path]::Combine($PSScriptRoot, $name)
if (-not (Test-Path -LiteralPath $model -PathType Leaf)) {
    [Console]::Error.WriteLine("error: $model is missing")
    exit 1
}

if (Test-Program 'llama-cli') {
    $program = 'llama-cli'
} elseif (Test-Program 'quantkit') {
    [Console]::Error.WriteLine('llama-cli is not installed; using quantkit chat')
    & quantkit chat $PSScriptRoot @args
    exit $LASTEXITCODE
} elseif (Test-Program 'llama-completion') {
    $program = 'llama-completion'
} elseif (Test-OldMain) {
    $program = 'main'
} else {
    [Console]::Error.WriteLine('error: neither llama-cli nor quantkit is installed')
    [Console]::Error.WriteLine('hint: install llama.cpp (winget install llama.cpp, or')
    [Console]::Error.WriteLine('      https://github.com/ggml-org/llama.cpp/releases), or quantkit, which made this folder')
    exit 1
}

$text = ''
$options = @('-m', $model)
if ($program -eq 'llama-cli') {
    $options += @('--jinja', '-ngl', '999', '-c', '4096', '--temp', '0.2', '--keep', '24', '-r', 'Say \x22User\x22:\x5c')
    $text = $system
    $textOption = '-sysf'
} else {
    [Console]::Error.WriteLine("llama-cli is not installed; using $program")
    # Older programs do not support chat templates, so they get the chat format as options.
    if ($program -eq 'llama-completion') { $options += '-no-cnv' }
    $options += @('-ngl', '999', '-c', '4096', '--temp', '0.2', '--keep', '24', '-if', '-e', '-r', '<|start_header_id|>user<|end_header_id|>\n\n', '-r', 'Say \x22User\x22:\x5c', '--in-suffix', '<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n')
    $text = '<|start_header_id|>system<|end_header_id|>\n\nYou''re \x22helpful\x22.\n\n$(reboot) `reboot` 你是一个乐于助人的助手。‘‘引号’’<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n'
    $textOption = '-f'
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
}
exit $code
