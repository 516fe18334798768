module prompts

go 1.24
