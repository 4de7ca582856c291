"""Models in files: safetensors, what each kind of object is stored as, checkpoints of other tools.

octavo.save, load     save_load      `save` and `load`
                      octavo_header  what makes a safetensors file an octavo file
                      codecs         which options and tensors each class is stored as, and back: the table
                      linear_codecs  the same for linear layers
                      grouped        the same for grouped codes
                      input_transform    the same for scales and rotations of inputs
                      packed_layout  layers that lie packed for a family of architectures
                      origins        where a layer of a mapped file lies, for its pickle
                      mapped_layers  layers of files that pickles refer to
                      fields         options and tensors of one object, as codecs read and write them
                      fits           whether a stored object may take the place of what a model has
                      renaming       names of a file as names of a model that calls things otherwise
                      fitting        what the file cannot know of a model, taken from the model

the container         safetensors    reading and writing a piece at a time
                      header         the header of such a file, and the checks that make it safe to believe
                      checksum       CRC-32 of what is read and written
                      shards         a checkpoint in several files
                      foreign        what another file is, told by its first bytes

octavo quantize       checkpoint     a float checkpoint: safetensors, shards, or a NumPy archive
                      choice         what the user asks for, by patterns of names
                      naming         what names show: tables, heads, recurrent layers
                      layouts        whether a matrix is (out, in) or (in, out)
                      plan           what becomes of each tensor
                      items          a layer of the output, and what it is made from
                      rows           quantizing blocks of rows
                      outputs        the files that are written
                      conversion     the whole of it

octavo pack           repacking      a file in another layout

octavo inspect        inspection     what a file holds
                      sizes          what layers take, in a file and in memory
                      weight_error   how far integers are from the floats they were made from
"""
