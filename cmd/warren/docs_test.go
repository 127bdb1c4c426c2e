package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/warrennet/warren/agent/config"
	"github.com/warrennet/warren/agent/metrics"
)

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// documents are the texts for users.
func documents(t *testing.T) map[string]string {
	out := map[string]string{"README.md": read(t, "README.md")}
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := "docs/" + filepath.Base(f)
		out[name] = read(t, name)
	}
	return out
}

// Every `warren ...` command in the documents exists, with its flags.
func TestDocuments_Commands_Exist(t *testing.T) {
	re := regexp.MustCompile("(?m)(?:^|`|; )(?:bin/)?warren ([a-z][^`;#|\\n]*)")
	for name, text := range documents(t) {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			c, rest, err := root().Find(words)
			if err != nil || c.Name() == "warren" {
				t.Errorf("%s: `warren %s`: no such command", name, strings.Join(words, " "))
				continue
			}
			for _, w := range rest {
				if w == "--" {
					break
				}
				if strings.HasPrefix(w, "--") && flag(c, w) == nil {
					t.Errorf("%s: `warren %s`: no flag %s", name, strings.Join(words, " "), w)
				}
			}
		}
	}
}

func flag(c *cobra.Command, w string) any {
	name, _, _ := strings.Cut(strings.TrimLeft(w, "-"), "=")
	if name == "help" {
		return true
	}
	if f := c.Flags().Lookup(name); f != nil {
		return f
	}
	if f := c.InheritedFlags().Lookup(name); f != nil {
		return f
	}
	return nil
}

// Every make target in the documents exists.
func TestDocuments_MakeTargets_Exist(t *testing.T) {
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile("`make ([a-z0-9-]+)`|(?m)^make ([a-z0-9-]+)").FindAllStringSubmatch(text, -1) {
			if out, err := exec.Command("make", "-C", "../..", "-n", m[1]+m[2]).CombinedOutput(); err != nil {
				t.Errorf("%s: make %s: %v\n%s", name, m[1]+m[2], err, out)
			}
		}
	}
}

// Every metric of the agent is in docs/operations.md, and every one there exists.
func TestDocuments_Metrics_AreThoseOfTheAgent(t *testing.T) {
	doc := read(t, "docs/operations.md")
	ch := make(chan *prometheus.Desc, 100)
	metrics.New(nil, nil).Describe(ch)
	close(ch)
	exists := map[string]bool{}
	for d := range ch {
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]
		exists[name] = true
		if !strings.Contains(doc, "`"+name+"`") {
			t.Errorf("docs/operations.md does not name the metric %s", name)
		}
	}
	for _, m := range regexp.MustCompile("`(warren_[a-z_]+)`").FindAllStringSubmatch(doc, -1) {
		if !exists[m[1]] {
			t.Errorf("docs/operations.md names %s, which no agent serves", m[1])
		}
	}
}

// Links between documents lead somewhere.
func TestDocuments_Links_Resolve(t *testing.T) {
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join("..", "..", filepath.Dir(name), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", name, m[1], err)
			}
		}
	}
}

// Every setting is in the agent's help, with its environment variable and flag.
func TestAgentHelp_EverySetting_IsListed(t *testing.T) {
	help := agentCmd().Long
	for _, s := range config.Settings() {
		if !strings.Contains(help, s.Key) || !strings.Contains(help, s.Env()) || agentCmd().Flags().Lookup(s.Flag()) == nil {
			t.Errorf("the help does not name %s, %s and --%s", s.Key, s.Env(), s.Flag())
		}
	}
}

// Each command's flags and words parse, and a wrong one is an error and not a panic.
func TestCommands_InvalidArguments_ReturnError(t *testing.T) {
	for _, args := range [][]string{{"nosuch"}, {"status", "--nosuch"}, {"node", "rm"}, {"peer", "add", "x"}, {"agent", "extra"},
		{"lab", "heal", "one"}} {
		c := root()
		c.SetArgs(args)
		c.SetOut(&strings.Builder{})
		c.SetErr(&strings.Builder{})
		if err := c.Execute(); err == nil {
			t.Errorf("warren %v was accepted", args)
		}
	}
}

// docs/architecture.md lists every command, and every command there exists.
func TestArchitecture_Commands_AreThoseOfTheProgram(t *testing.T) {
	doc := read(t, "docs/architecture.md")
	exists := map[string]bool{}
	for _, c := range root().Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		exists[c.Name()] = true
		if !strings.Contains(doc, "`warren "+c.Name()+"`") {
			t.Errorf("docs/architecture.md does not list `warren %s`", c.Name())
		}
	}
	for _, m := range regexp.MustCompile("`warren ([a-z-]+)").FindAllStringSubmatch(doc, -1) {
		if !exists[m[1]] {
			t.Errorf("docs/architecture.md lists `warren %s`, which does not exist", m[1])
		}
	}
}
