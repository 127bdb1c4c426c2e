package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warrennet/warren/internal/atomicfile"
)

// sysctls sets values below root and persists the former values in file, so that Uninstall can restore them.
type sysctls struct {
	root string
	file string
	old  map[string]string // loaded on first use
}

func (s *setter) sysctls(c *sysctls) {
	for _, w := range s.want.Sysctls {
		changed, err := c.set(w)
		if err != nil {
			s.fail("set sysctl %s=%s: %w", w.Path, w.Value, err)
		} else if changed {
			s.changes = append(s.changes, "set sysctl "+w.Path+"="+w.Value)
		}
	}
}

func (c *sysctls) set(w Sysctl) (bool, error) {
	have, err := c.read(w.Path)
	if errors.Is(err, fs.ErrNotExist) && w.Optional {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if w.Append {
		w.Value = appended(have, w.Value)
	}
	if have == w.Value || w.If != "" && have != w.If {
		return false, nil
	}
	if err := c.remember(w.Path, have); err != nil {
		return false, err
	}
	return true, os.WriteFile(filepath.Join(c.root, w.Path), []byte(w.Value), 0o644)
}

// appended returns the list in have with the elements of more that it lacks. The kernel writes such lists sorted and without
// spaces.
func appended(have, more string) string {
	list := strings.FieldsFunc(have, func(r rune) bool { return r == ',' })
	for _, x := range strings.Split(more, ",") {
		if !slices.Contains(list, x) {
			list = append(list, x)
		}
	}
	if len(list) == len(strings.FieldsFunc(have, func(r rune) bool { return r == ',' })) {
		return have
	}
	return strings.Join(list, ",")
}

func (c *sysctls) read(path string) (string, error) {
	b, err := os.ReadFile(filepath.Join(c.root, path))
	return strings.TrimSpace(string(b)), err
}

// remember persists the first value read from a path. It is on disk before the value is changed.
func (c *sysctls) remember(path, value string) error {
	if err := c.load(); err != nil {
		return err
	}
	if _, known := c.old[path]; known {
		return nil
	}
	c.old[path] = value
	raw, err := json.MarshalIndent(c.old, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(c.file, raw, 0o600)
}

func (c *sysctls) load() error {
	if c.old != nil {
		return nil
	}
	c.old = map[string]string{}
	raw, err := os.ReadFile(c.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &c.old); err != nil {
		c.old = map[string]string{}
		return fmt.Errorf("saved sysctls %s: %w", c.file, err)
	}
	return nil
}

// restore writes all former values and deletes the file that holds them. A sysctl whose file does not exist any more counts
// as restored: its interface was deleted.
func (c *sysctls) restore() error {
	if err := c.load(); err != nil {
		return err
	}
	var errs []error
	for path, v := range c.old {
		// With a newline: a write of zero bytes would leave the value unchanged.
		if err := os.WriteFile(filepath.Join(c.root, path), []byte(v+"\n"), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("restore sysctl %s=%s: %w", path, v, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	c.old = map[string]string{}
	if err := os.Remove(c.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
