// The prompts that an Ollama server builds from TEMPLATEs, by Go's own text/template.
//
// What is the server's own here is how it feeds the template: see collate, turns and untilResponse. The program is
// trusted because it gives every prompt that was recorded from a real server (tests/golden/ollama_renders.json).
//
//	stdin   [{"template": TEXT, "old": BOOL, "talks": [{"system": TEXT, "messages": [{"role", "content"}, ...]}]}, ...]
//	stdout  [[{"prompt": TEXT} or {"error": MESSAGE}, ...], ...]
//
// An old server knows no list of messages and feeds every template turn by turn.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
)

type message struct{ Role, Content string }

type talk struct {
	System   string
	Messages []message
}

type job struct {
	Template string
	Old      bool
	Talks    []talk
}

type answer struct {
	Prompt string `json:"prompt"`
	Error  string `json:"error,omitempty"`
}

func main() {
	var jobs []job
	answers := [][]answer{}
	err := json.NewDecoder(os.Stdin).Decode(&jobs)
	for _, job := range jobs {
		answers = append(answers, prompts(job))
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answers)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func prompts(job job) []answer {
	parsed, err := template.New("").Option("missingkey=zero").Parse(job.Template)
	answers := []answer{}
	for _, talk := range job.Talks {
		var text strings.Builder
		failure := err
		if failure == nil {
			failure = write(&text, parsed, talk, job.Old)
		}
		if failure != nil {
			answers = append(answers, answer{Error: failure.Error()})
		} else {
			answers = append(answers, answer{Prompt: text.String()})
		}
	}
	return answers
}

// write asks for an answer to a talk. The system text of a model stands in where the talk opens with none.
func write(out *strings.Builder, parsed *template.Template, talk talk, old bool) error {
	messages := talk.Messages
	if talk.System != "" && (len(messages) == 0 || messages[0].Role != "system") {
		messages = append([]message{{"system", talk.System}}, messages...)
	}
	system, collated := collate(messages)
	if mentions(parsed.Root, "Messages") && !old {
		return parsed.Execute(out, map[string]any{"System": system, "Messages": collated, "Response": ""})
	}
	root := parsed.Root.CopyList()
	if !mentions(root, "Response") {
		root.Nodes = append(root.Nodes, template.Must(template.New("").Parse("{{ .Response }}")).Root.Nodes...)
	}
	rounds := turns(collated)
	for i, round := range rounds {
		if i == len(rounds)-1 {
			untilResponse(root)
		}
		tree, err := template.New("").Option("missingkey=zero").AddParseTree("", &parse.Tree{Root: root})
		if err != nil {
			return err
		}
		if err := tree.Execute(out, round); err != nil {
			return err
		}
	}
	return nil
}

// collate joins messages of one role that follow each other, but answers of tools, and gives all system texts.
func collate(messages []message) (string, []message) {
	var systems []string
	var collated []message
	for _, next := range messages {
		if next.Role == "system" {
			systems = append(systems, next.Content)
		}
		last := len(collated) - 1
		if last >= 0 && collated[last].Role == next.Role && next.Role != "tool" {
			collated[last].Content += "\n\n" + next.Content
		} else {
			collated = append(collated, next)
		}
	}
	return strings.Join(systems, "\n\n"), collated
}

// turns deals messages into rounds of system, prompt and response; the last round is the one to be answered.
func turns(messages []message) []map[string]any {
	round := map[string]any{"System": "", "Prompt": "", "Response": ""}
	var rounds []map[string]any
	for _, message := range messages {
		full := message.Role == "user" && round["Response"] != "" ||
			message.Role == "system" && (round["Prompt"] != "" || round["Response"] != "")
		if full {
			rounds = append(rounds, round)
			round = map[string]any{"System": "", "Prompt": "", "Response": ""}
		}
		round[map[string]string{"system": "System", "user": "Prompt", "assistant": "Response"}[message.Role]] = message.Content
	}
	return append(rounds, round)
}

// untilResponse cuts off what follows the first action that writes .Response, and tells whether there was one.
func untilResponse(list *parse.ListNode) bool {
	if list == nil {
		return false
	}
	for i, node := range list.Nodes {
		found := false
		if branch := branchOf(node); branch != nil {
			if found = untilResponse(branch.List); found {
				branch.ElseList = nil
			} else {
				found = untilResponse(branch.ElseList)
			}
		} else if action, ok := node.(*parse.ActionNode); ok {
			found = mentions(action.Pipe, "Response")
		}
		if found {
			list.Nodes = list.Nodes[:i+1]
			return true
		}
	}
	return false
}

// mentions tells whether a template has a field of that name, in its actions or its conditions.
func mentions(node parse.Node, name string) bool {
	return slices.Contains(fields(node), name)
}

// fields gives the names of all fields below a node, also those of variables, as far as the server looks for them.
func fields(node parse.Node) []string {
	var names []string
	switch node := node.(type) {
	case *parse.ListNode:
		if node != nil {
			for _, inner := range node.Nodes {
				names = append(names, fields(inner)...)
			}
		}
	case *parse.ActionNode:
		return fields(node.Pipe)
	case *parse.PipeNode:
		for _, command := range node.Cmds {
			for _, argument := range command.Args {
				names = append(names, fields(argument)...)
			}
		}
	case *parse.FieldNode:
		return node.Ident
	case *parse.VariableNode:
		return node.Ident[1:]
	default:
		if branch := branchOf(node); branch != nil {
			return slices.Concat(fields(branch.Pipe), fields(branch.List), fields(branch.ElseList))
		}
	}
	return names
}

func branchOf(node parse.Node) *parse.BranchNode {
	switch node := node.(type) {
	case *parse.IfNode:
		return &node.BranchNode
	case *parse.RangeNode:
		return &node.BranchNode
	case *parse.WithNode:
		return &node.BranchNode
	}
	return nil
}
