// Package templates renders a State into HAProxy's configuration text. It is pure: the same State, Globals and Abilities give
// the same bytes, whatever the order of the rows, and nothing is read or written.
//
// The built-in template and a user's own get the same Data, which is a public contract: fields may be added, and are never
// renamed or given another type (a test holds the list). Data has strings and numbers alone, all of which were parsed to a
// type or pass conf.Quote, so that no value can end its line. What cannot be rendered safely is an error that names the row.
//
// A template runs bounded in time, output, depth and the size of its values, because a user's may loop for ever; what it does wrong
// is an *Error with the place. The bundle leads each line of the text back to the line of the template that made it, and directives
// that HAProxy has dropped are replaced where one line does exactly the same, with a note.
package templates
