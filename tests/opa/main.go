// Answers what the Open Policy Agent says of a policy: one request a line on standard input, one answer a line on standard
// output. The tests of the broker compare its own answers with these.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing/fstest"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/loader"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
	"github.com/open-policy-agent/opa/v1/topdown"
	"github.com/open-policy-agent/opa/v1/util"
)

// Request is a policy as it lies in a directory, and what is asked of it.
type Request struct {
	Files   map[string]string `json:"files"`
	Queries []string          `json:"queries"`
	Inputs  []json.RawMessage `json:"inputs"`
	// As `opa check --strict --capabilities`, where it is not empty.
	Capabilities string `json:"capabilities"`
	// As `opa test`.
	Tests bool `json:"tests"`
}

// Answer has one list an input, with one outcome a query; and by their names whether tests passed.
type Answer struct {
	Refused  string          `json:"refused,omitempty"`
	Outcomes [][]Outcome     `json:"outcomes,omitempty"`
	Tests    map[string]bool `json:"tests,omitempty"`
}

// Outcome is the value, or that there is none, and whether an evaluation with strict errors of builtins fails: as OPA does
// it, and with every rule evaluated in full, without its index and early exit.
type Outcome struct {
	Value       any    `json:"value,omitempty"`
	Undefined   bool   `json:"undefined,omitempty"`
	Error       string `json:"error,omitempty"`
	StrictError string `json:"strict_error,omitempty"`
	FullError   string `json:"full_error,omitempty"`
}

func main() {
	reader := bufio.NewReaderSize(os.Stdin, 1<<20)
	writer := bufio.NewWriter(os.Stdout)
	for {
		line, err := reader.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			if err := respond(line, writer); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func respond(line []byte, writer *bufio.Writer) error {
	var request Request
	if err := json.Unmarshal(line, &request); err != nil {
		return err
	}
	encoded, err := json.Marshal(answer(&request))
	if err != nil {
		return err
	}
	if _, err := writer.Write(append(encoded, '\n')); err != nil {
		return err
	}
	return writer.Flush()
}

func answer(request *Request) Answer {
	files := fstest.MapFS{}
	for name, text := range request.Files {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	loaded, err := loader.NewFileLoader().WithFS(files).All([]string{"."})
	if err != nil {
		return Answer{Refused: err.Error()}
	}
	store := inmem.NewFromObject(loaded.Documents)
	compiler := ast.NewCompiler().WithPathConflictsCheck(func(path []string) (bool, error) {
		return defined(loaded.Documents, path), nil
	})
	if request.Capabilities != "" {
		capabilities, err := ast.LoadCapabilitiesJSON(strings.NewReader(request.Capabilities))
		if err != nil {
			return Answer{Refused: err.Error()}
		}
		compiler = compiler.WithStrict(true).WithCapabilities(capabilities)
	}
	modules := map[string]*ast.Module{}
	for name, module := range loaded.Modules {
		modules[name] = module.Parsed
	}
	if compiler.Compile(modules); compiler.Failed() {
		return Answer{Refused: compiler.Errors.Error()}
	}
	if request.Tests {
		passed, err := test(modules, store)
		if err != nil {
			return Answer{Refused: err.Error()}
		}
		return Answer{Tests: passed}
	}
	var outcomes [][]Outcome
	for _, raw := range request.Inputs {
		var input any
		if err := util.UnmarshalJSON(raw, &input); err != nil {
			return Answer{Refused: "input: " + err.Error()}
		}
		var row []Outcome
		for _, query := range request.Queries {
			row = append(row, ask(query, input, rego.Compiler(compiler), rego.Store(store)))
		}
		outcomes = append(outcomes, row)
	}
	return Answer{Outcomes: outcomes}
}

func test(modules map[string]*ast.Module, store storage.Store) (map[string]bool, error) {
	ctx := context.Background()
	passed := map[string]bool{}
	err := storage.Txn(ctx, store, storage.TransactionParams{}, func(txn storage.Transaction) error {
		results, err := tester.NewRunner().SetStore(store).SetModules(modules).RunTests(ctx, txn)
		if err != nil {
			return err
		}
		for result := range results {
			passed[result.Name] = result.Pass()
		}
		return nil
	})
	return passed, err
}

// As the bundle and directory loaders of OPA ask of its store.
func defined(document any, path []string) bool {
	for _, name := range path {
		members, ok := document.(map[string]any)
		if !ok {
			return true
		}
		if document, ok = members[name]; !ok {
			return false
		}
	}
	return true
}

func ask(query string, input any, options ...func(*rego.Rego)) Outcome {
	options = append(options, rego.Query(query), rego.Input(input))
	ctx := context.Background()
	results, err := rego.New(options...).Eval(ctx)
	var outcome Outcome
	switch {
	case err != nil:
		outcome.Error = err.Error()
	case len(results) == 0:
		outcome.Undefined = true
	default:
		outcome.Value = results[0].Expressions[0].Value
	}
	strict := rego.New(append(options, rego.StrictBuiltinErrors(true))...)
	if _, err := strict.Eval(ctx); err != nil {
		outcome.StrictError = describe(err)
	}
	prepared, err := rego.New(append(options, rego.StrictBuiltinErrors(true))...).PrepareForEval(ctx)
	if err == nil {
		_, err = prepared.Eval(ctx, rego.EvalInput(input), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(false))
	}
	if err != nil {
		outcome.FullError = describe(err)
	}
	return outcome
}

func describe(err error) string {
	var evaluation *topdown.Error
	if errors.As(err, &evaluation) {
		return evaluation.Code + ": " + evaluation.Message
	}
	return err.Error()
}
