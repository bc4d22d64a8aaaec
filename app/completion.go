package app

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/fnlb/fnlb/config"
)

// words are what the completion of a shell knows: commands, what may stand behind them, flags.
type words struct {
	commands []command
	behind   map[string][]string // words behind a command
	flags    []config.Flag       // of all commands
	own      map[string][]config.Flag
}

// flagWords are values of flags that are words.
var flagWords = map[string][]string{
	"access-log":    {"off", "stdout"},
	"docker":        {"auto", "off", "unix:///var/run/docker.sock"},
	"driver":        {"kubernetes", "nodes", "docker", "kubernetes,nodes,docker"},
	"first-screen":  {"on", "off"},
	"ip-family":     {"any", "ipv4", "ipv6"},
	"load-feedback": {"on", "off"},
	"pod-ready":     {"true", "false"},
}

func completionWords() words {
	w := words{
		commands: commands(), flags: config.Flags(), own: map[string][]config.Flag{},
		behind: map[string][]string{"nodes": nodesVerbs, "completion": {"bash", "zsh", "fish"}},
	}
	for _, cmd := range w.commands {
		fs := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
		(&call{}).ownFlags(cmd)(fs)
		fs.VisitAll(func(f *flag.Flag) {
			value, usage := flag.UnquoteUsage(f)
			w.own[cmd.name] = append(w.own[cmd.name], config.Flag{Name: f.Name, Value: value, Usage: usage})
		})
	}
	return w
}

// completion prints a script that completes commands, flags and their values.
func completion(c *call) error {
	scripts := map[string]func(io.Writer, words) error{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}
	if len(c.args) != 1 || scripts[c.args[0]] == nil {
		return &config.UsageError{Reason: "name one shell", Hint: "fnlb completion bash | zsh | fish"}
	}
	return scripts[c.args[0]](c.Stdout, completionWords())
}

// isFile reports whether the flag's value is a file or a folder.
func isFile(f config.Flag) bool {
	switch f.Value {
	case "FILE", "DIR", "DIRS", "SOCKET", "WHERE":
		return true
	}
	return false
}

// single puts a text between single quotes; inner is how the shell has one within.
func single(s, inner string) string { return "'" + strings.ReplaceAll(s, "'", inner) + "'" }

func dashed(flags []config.Flag) string {
	var out []string
	for _, f := range flags {
		out = append(out, "--"+f.Name)
	}
	return strings.Join(out, " ")
}

// bashCompletion: bash makes three words of --flag=value, because = ends a word.
func bashCompletion(out io.Writer, w words) error {
	var b strings.Builder
	var cmds []string
	for _, c := range w.commands {
		cmds = append(cmds, c.name)
	}
	b.WriteString("# bash completion for fnlb: source <(fnlb completion bash)\n_fnlb() {\n")
	b.WriteString("  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} flags words=''\n")
	b.WriteString("  COMPREPLY=()\n")
	b.WriteString("  if [[ $cur == = ]]; then cur=''; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi\n")
	b.WriteString("  case $prev in\n")
	var files, free []string
	for _, f := range w.flags {
		both := "--" + f.Name + " | -" + f.Name
		switch values := flagWords[f.Name]; {
		case values != nil:
			fmt.Fprintf(&b, "  %s)\n    COMPREPLY=($(compgen -W %s -- \"$cur\"))", both, single(strings.Join(values, " "), `'\''`))
			if isFile(f) {
				b.WriteString("\n    compopt -o filenames 2>/dev/null\n    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- \"$cur\")")
			}
			b.WriteString("\n    return ;;\n")
		case isFile(f):
			files = append(files, both)
		default:
			free = append(free, both)
		}
	}
	fmt.Fprintf(&b, "  %s)\n    compopt -o filenames 2>/dev/null\n    mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n    return ;;\n", strings.Join(files, " | "))
	fmt.Fprintf(&b, "  %s) return ;;\n  esac\n", strings.Join(free, " | "))
	fmt.Fprintf(&b, "  flags=%s\n", single(dashed(w.flags)+" --help", `'\''`))
	b.WriteString("  case ${COMP_WORDS[1]} in\n")
	for _, c := range w.commands {
		own, behind := dashed(w.own[c.name]), strings.Join(w.behind[c.name], " ")
		if own != "" || behind != "" {
			fmt.Fprintf(&b, "  %s) flags+=%s words=%s ;;\n", c.name, single(" "+own, `'\''`), single(behind, `'\''`))
		}
	}
	b.WriteString("  esac\n")
	b.WriteString("  if [[ $cur == -* ]]; then\n    [[ $cur == --* || $cur == - ]] || flags=${flags//--/-}\n    words=$flags\n")
	fmt.Fprintf(&b, "  elif ((COMP_CWORD == 1)); then\n    words=%s\n", single(strings.Join(cmds, " ")+" help", `'\''`))
	b.WriteString("  elif ((COMP_CWORD > 2)); then\n    words=''\n  fi\n")
	b.WriteString("  COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\ncomplete -F _fnlb fnlb\n")
	_, err := io.WriteString(out, b.String())
	return err
}

// zshCompletion is one list of _arguments, which wants its own signs escaped within the descriptions.
func zshCompletion(out io.Writer, w words) error {
	text := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `:`, `\:`)
	var b strings.Builder
	spec := func(f config.Flag) string {
		s := "--" + f.Name
		if f.Value == "" {
			return s + "[" + text.Replace(f.Usage) + "]"
		}
		action := ""
		if values := flagWords[f.Name]; values != nil {
			action = "(" + text.Replace(strings.Join(values, " ")) + ")"
		} else if isFile(f) {
			action = "_files"
		}
		return s + "=[" + text.Replace(f.Usage) + "]:" + f.Value + ":" + action
	}
	b.WriteString("#compdef fnlb\n# zsh completion for fnlb: fnlb completion zsh >DIR-OF-FPATH/_fnlb\n_fnlb() {\n  local -a commands flags\n  commands=(\n")
	for _, c := range w.commands {
		b.WriteString("    " + single(c.name+":"+text.Replace(c.about), `'\''`) + "\n")
	}
	b.WriteString("  )\n  flags=(\n")
	for _, f := range w.flags {
		b.WriteString("    " + single(spec(f), `'\''`) + "\n")
	}
	b.WriteString("  )\n  case ${words[2]} in\n")
	for _, c := range w.commands {
		if len(w.own[c.name]) == 0 {
			continue
		}
		fmt.Fprintf(&b, "  %s) flags+=(", c.name)
		for _, f := range w.own[c.name] {
			b.WriteString(" " + single(spec(f), `'\''`))
		}
		b.WriteString(" ) ;;\n")
	}
	b.WriteString("  esac\n  if ((CURRENT == 2)) && [[ ${words[2]} != -* ]]; then\n    _describe command commands\n    return\n  fi\n")
	b.WriteString("  if ((CURRENT == 3)) && [[ ${words[3]} != -* ]]; then\n    case ${words[2]} in\n")
	for _, c := range w.commands {
		if behind := w.behind[c.name]; behind != nil {
			fmt.Fprintf(&b, "    %s) compadd -- %s; return ;;\n", c.name, strings.Join(behind, " "))
		}
	}
	b.WriteString("    esac\n  fi\n  _arguments -S $flags '*: :'\n}\ncompdef _fnlb fnlb\n")
	_, err := io.WriteString(out, b.String())
	return err
}

// fishCompletion is one line for each word.
func fishCompletion(out io.Writer, w words) error {
	const quote = `\'`
	text := func(s string) string { return single(strings.ReplaceAll(s, `\`, `\\`), quote) }
	var b strings.Builder
	b.WriteString("# fish completion for fnlb: fnlb completion fish >~/.config/fish/completions/fnlb.fish\ncomplete -c fnlb -f\n")
	for _, c := range w.commands {
		fmt.Fprintf(&b, "complete -c fnlb -n __fish_use_subcommand -a %s -d %s\n", c.name, text(c.about))
		if behind := w.behind[c.name]; behind != nil {
			fmt.Fprintf(&b, "complete -c fnlb -n '__fish_seen_subcommand_from %s' -a %s\n", c.name, text(strings.Join(behind, " ")))
		}
		for _, f := range w.own[c.name] {
			fmt.Fprintf(&b, "complete -c fnlb -n '__fish_seen_subcommand_from %s' -l %s -d %s\n", c.name, f.Name, text(f.Usage))
		}
	}
	for _, f := range w.flags {
		values := "-x"
		if words := flagWords[f.Name]; words != nil {
			values = "-x -a " + text(strings.Join(words, " "))
		}
		if isFile(f) {
			values = strings.Replace(values, "-x", "-r -F", 1)
		}
		fmt.Fprintf(&b, "complete -c fnlb -l %s %s -d %s\n", f.Name, values, text(f.Usage))
	}
	_, err := io.WriteString(out, b.String())
	return err
}
