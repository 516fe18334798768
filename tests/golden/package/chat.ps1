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
        'Starts a chat with the model beside this script, in llama-cli of llama.cpp, or in quantkit where'
        'llama-cli is not installed. Every OPTION is passed on to it, so that for instance'
        '    .\chat.ps1 -ngl 0 --temp 0.7'
        'runs without a GPU and at another temperature.'
    ) | Write-Output
    exit 0
}

$model = [IO.Path]::Combine($PSScriptRoot, $name)
if (-not (Test-Path -LiteralPath $model -PathType Leaf)) {
    [Console]::Error.WriteLine("error: $model is missing")
    exit 1
}
if (Get-Command llama-cli -CommandType Application -ErrorAction SilentlyContinue) {
    $options = @('-m', $model, '--jinja', '-ngl', '999', '-c', '4096', '--temp', '0.2', '--keep', '24', '-r', 'Say \x22User\x22:\x5c')
    # Through a file: older versions of PowerShell lose the double quotes of arguments. llama-cli drops the last line end.
    $file = [IO.Path]::GetTempFileName()
    try {
        [IO.File]::WriteAllText($file, $system + "`n", (New-Object Text.UTF8Encoding $false))
        & llama-cli @options -sysf $file @args
        $code = $LASTEXITCODE
    } finally {
        Remove-Item -LiteralPath $file -Force
    }
    exit $code
}
if (Get-Command quantkit -CommandType Application -ErrorAction SilentlyContinue) {
    [Console]::Error.WriteLine('llama-cli is not installed; using quantkit chat')
    & quantkit chat $PSScriptRoot @args
    exit $LASTEXITCODE
}
[Console]::Error.WriteLine('error: neither llama-cli nor quantkit is installed')
[Console]::Error.WriteLine('hint: install llama.cpp (winget install llama.cpp, or')
[Console]::Error.WriteLine('      https://github.com/ggml-org/llama.cpp/releases), or: pip install quantkit')
exit 1
