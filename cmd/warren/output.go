package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func outputFlag(c *cobra.Command, format *string) {
	c.Flags().StringVarP(format, "output", "o", "text", "text or json")
}

// render prints a value as JSON, or as text by the given function; columns are separated by tabs.
func render(w io.Writer, format string, v any, text func(w io.Writer)) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "text":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		text(t)
		return t.Flush()
	}
	return fmt.Errorf("--output %q is neither text nor json", format)
}
